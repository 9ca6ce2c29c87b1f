# An edge before a bucket: what a request means, as cdn_fallback/mirror/negotiate.py has it. @NAMES@ are filled in.
#
# It differs from negotiate.py where nginx.py does: JSON and HTML are not weighed against each other, who names JSON
# with any weight above 0 gets it. Of encoded characters in a project's name it knows only - _ and .
vcl 4.1;

import purge;
import std;

backend bucket {
    .host = "@HOST@";
    .port = "@PORT@";
    .connect_timeout = @PATIENCE@s;
    .first_byte_timeout = @PATIENCE@s;
    .between_bytes_timeout = @PATIENCE@s;
}

sub vcl_recv {
    # Of a client nothing counts but these; what it sends under our own names does not.
    unset req.http.X-Location;
    unset req.http.X-Vary;
    unset req.http.X-Twin;
    unset req.http.X-Serial;
    if (req.method == "EXPIRE" && local.socket == "@ADMIN@") {
        return (hash);
    }
    if (req.method != "GET" && req.method != "HEAD") {
        return (synth(405));
    }
    std.collect(req.http.Accept);
    std.collect(req.http.Accept-Encoding);

    # ?format= wins, and is all that counts of a query
    set req.http.X-Format = "";
    if (req.url ~ "(?i)^[^?]*\?(?:(?!format=)[^&]*&)*format=") {
        set req.http.X-Format = regsub(req.url, "(?i)^[^?]*\?(?:(?!format=)[^&]*&)*format=([^&]*).*$", "\1");
    }
    set req.http.X-Query = "";
    if (req.http.X-Format ~ "(?i)^(?:@JSON_FORMAT@|@HTML_FORMAT@)$") {
        set req.http.X-Query = "?format=" + req.http.X-Format;
    }
    set req.url = regsub(req.url, "\?.*$", "");

    # paths that no object has: encoded wrongly, or with a hidden or an empty part, a backslash, a control character
    if (req.url !~ "^/[!-~]*$" || req.url ~ "%(?![0-9A-Fa-f]{2})|#"
        || req.url ~ "(?i)(?:/(?:\.|%2e)|//|\\|%2f|%5c|%[01][0-9a-f]|%7f)") {
        return (synth(404));
    }

    set req.http.X-Form = "none";
    if (req.http.X-Format ~ "(?i)^@JSON_FORMAT@$") {
        set req.http.X-Form = "json";
    } else if (req.http.X-Format ~ "(?i)^@HTML_FORMAT@$") {
        set req.http.X-Form = "html";
    } else if (req.http.X-Format == "") {
        if (!req.http.Accept || req.http.Accept ~ "^[ \t,]*$") {
            set req.http.X-Form = "html";
        } else if (req.http.Accept ~ "(?i)@TAKES_JSON@") {
            set req.http.X-Form = "json";
        } else if (req.http.Accept ~ "(?i)@TAKES_HTML@") {
            set req.http.X-Form = "html";
        }
    }

    if (@IN_TREE@) {
        set req.url = regsub(req.url, "/$", "/index.html");
    } else if (req.url ~ "^/(?:simple|pypi)(?:/|$)") {
        call index;
    } else if (req.url ~ "/$") {
        return (synth(404));
    }
    set req.url = "/@BUCKET@" + req.url;
    return (hash);
}

sub index {
    set req.url = regsuball(req.url, "(?i)%2d", "-");
    set req.url = regsuball(req.url, "(?i)%5f", "_");
    set req.url = regsuball(req.url, "(?i)%2e", ".");
    if (req.url == "/simple") {
        set req.http.X-Location = "/simple/" + req.http.X-Query;
        return (synth(301));
    }
    if (req.url == "/simple/") {
        call in_the_form_wanted;
    } else if (req.url ~ "^/simple/index\.(?:html|json)(?:\.gz)?$") {
        call twin;
    } else if (req.url ~ "^/simple/@NAME@/?$") {
        set req.http.X-Name = regsub(req.url, "^/simple/([^/]+)/?$", "\1");
        call normalise;
        if (req.url != "/simple/" + req.http.X-Name + "/") {
            set req.http.X-Location = "/simple/" + req.http.X-Name + "/" + req.http.X-Query;
            return (synth(301));
        }
        call in_the_form_wanted;
    } else if (req.url ~ "^/simple/@NAME@/index\.(?:html|json)(?:\.gz)?$") {
        call twin;
    } else if (req.url ~ "^/pypi/@NAME@/json(?:\.gz)?$") {
        set req.http.X-Name = regsub(req.url, "^/pypi/([^/]+)/.*$", "\1");
        call normalise;
        if (req.url !~ "^/pypi/[a-z0-9-]+/" || req.url ~ "^/pypi/[^/]*--") {
            if (req.url ~ "\.gz$") {
                return (synth(404));
            }
            set req.http.X-Location = "/pypi/" + req.http.X-Name + "/json";
            return (synth(301));
        }
        set req.http.X-Serial = "@SERIAL@";
        call twin;
    } else {
        return (synth(404));
    }
}

sub normalise {
    set req.http.X-Name = std.tolower(regsuball(req.http.X-Name, "[._-]+", "-"));
}

sub in_the_form_wanted {
    if (req.http.X-Form == "none") {
        return (synth(406));
    }
    set req.url = req.url + "index." + req.http.X-Form;
    call twin;
}

# Pages lie beside a copy in gzip, but not all of them: see vcl_backend_response.
sub twin {
    set req.http.X-Vary = "Accept, Accept-Encoding";
    if (req.url !~ "\.gz$" && req.http.Accept-Encoding ~ "(?i)@TAKES_GZIP@") {
        set req.url = req.url + ".gz";
        set req.http.X-Twin = "1";
    }
}

sub vcl_hash {
    hash_data(req.url);
    return (lookup);
}

sub vcl_hit {
    if (req.method == "EXPIRE") {
        purge.soft(0s);
        return (synth(200));
    }
    return (deliver);
}

sub vcl_miss {
    if (req.method == "EXPIRE") {
        return (synth(404));
    }
    return (fetch);
}

sub vcl_backend_fetch {
    if (bereq.retries > 0 && bereq.http.X-Twin) {
        set bereq.url = regsub(bereq.url, "\.gz$", "");
    }
    unset bereq.http.Accept-Encoding;
    unset bereq.http.Authorization;
    unset bereq.http.Cookie;
    unset bereq.http.X-Forwarded-For;
    set bereq.http.Host = "@HOST@:@PORT@";
    return (fetch);
}

sub vcl_backend_response {
    if (beresp.status == 403 || beresp.status == 404) {
        if (bereq.http.X-Twin && bereq.retries == 0) {
            return (retry);
        }
        return (error(404, "Not Found"));
    }
    if (beresp.status != 200) {
        return (error(503, "Service Unavailable"));
    }
    # the time to live is that of s-maxage, by Varnish itself
    set beresp.grace =
        std.duration(regsub(beresp.http.Cache-Control, ".*stale-while-revalidate=([0-9]+).*", "\1s"), 0s)
        + std.duration(regsub(beresp.http.Cache-Control, ".*stale-if-error=([0-9]+).*", "\1s"), 0s);
    set beresp.keep = 0s;
    # bytes as they are: the filter that looks into gzip would have the object vary by a header that is not sent on
    set beresp.filters = "";
    unset beresp.http.Vary;
    unset beresp.http.Server;
    unset beresp.http.Set-Cookie;
    unset beresp.http.X-Amz-Meta-sha256;
    unset beresp.http.X-Amz-Request-Id;
    unset beresp.http.Seaweed-X-Amz-ETag;
    unset beresp.http.Seaweed-X-Amz-Owner;
    return (deliver);
}

sub vcl_backend_error {
    # what is stale stays, until its time is over or it is known to be gone
    if (bereq.is_bgfetch && beresp.status != 404) {
        return (abandon);
    }
    set beresp.ttl = @ERRORS@s;
    set beresp.grace = 0s;
    set beresp.http.Content-Type = "text/plain; charset=utf-8";
    set beresp.body = "" + beresp.status + " " + beresp.reason + {"
"};
    return (deliver);
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "hit";
    } else {
        set resp.http.X-Cache = "miss";
    }
    if (req.http.X-Vary && resp.status < 400) {
        set resp.http.Vary = req.http.X-Vary;
    }
    if (req.http.X-Serial && resp.status < 400) {
        set resp.http.@SERIAL_HEADER@ = req.http.X-Serial;
    }
    return (deliver);
}

sub vcl_synth {
    set resp.http.Content-Type = "text/plain; charset=utf-8";
    set resp.http.X-Cache = "edge";
    if (resp.status == 301) {
        set resp.http.Location = req.http.X-Location;
        set resp.http.Cache-Control = "@REDIRECT@";
    }
    if (resp.status == 405) {
        set resp.http.Allow = "GET, HEAD";
    }
    if (resp.status == 406) {
        set resp.http.Vary = "Accept";
    }
    set resp.body = "" + resp.status + " " + resp.reason + {"
"};
    return (deliver);
}
