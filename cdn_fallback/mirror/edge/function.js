// What a request means on this site: which object is asked for, in which form, or where it is. Written by cdn-fallback.
// For CloudFront Functions, runtime cloudfront-js-2.0 (ECMAScript 5.1, const and let); at viewer-request and, for
// headers that S3 does not know, at viewer-response. One change to a key is one change to what is cached.
//
//   /simple/NAME/       simple/NAME/index.json or index.html, whichever the client would rather have
//   /simple/Its_Name    leads to /simple/its-name/
//   /pypi/NAME/json     pypi/NAME/json
//   /docs/              docs/index.html, if docs is a tree beside the index
//   /packages/...       the object with that key
//
// These have a twin KEY.gz, which goes to those who accept gzip: the pages in simple/ and in pypi/.

const TREES = [/* trees */];  // the prefixes of what is published beside the index

const JSON_NAMES = ['application/vnd.pypi.simple.v1+json', 'application/vnd.pypi.simple.latest+json'];
const HTML_NAMES = ['application/vnd.pypi.simple.v1+html', 'application/vnd.pypi.simple.latest+html', 'text/html'];
// ?format= as it stands in a URL
const JSON_FORMAT = /^application(?:\/|%2F)vnd\.pypi\.simple\.(?:v1|latest)(?:\+|%2B|%20)json$/i;
const HTML_FORMAT = /^(?:application(?:\/|%2F)vnd\.pypi\.simple\.(?:v1|latest)(?:\+|%2B|%20)|text(?:\/|%2F))html$/i;
const NAME = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,198}[A-Za-z0-9])?$/;
const REDIRECT_CACHING = '/* page caching */';
const TEXTS = {
  301: ['Moved Permanently', 'It is elsewhere, for good.'],
  404: ['Not Found', 'There is no such page or file here.'],
  405: ['Method Not Allowed', 'This site can only be read.'],
  406: ['Not Acceptable', 'This page can be had as application/vnd.pypi.simple.v1+json and as text/html.']
};

function handler(event) {
  if (event.context && event.context.eventType === 'viewer-response') {
    return dressed(event.request.uri, event.response);
  }
  const request = event.request;
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return answer(request, 405, {allow: 'GET, HEAD'});
  }
  const key = decoded(request.uri);
  if (key === null) {
    return answer(request, 404, {});
  }
  const format = formatOf(request.querystring);
  request.querystring = {};  // no part of what is cached; S3 would take some for commands
  return inTree(key) ? ofTree(request, key) : ofIndex(request, key, format);
}

function ofTree(request, key) {
  if (TREES.indexOf(key) >= 0) {
    return answer(request, 301, {location: '/' + encoded(key) + '/'});
  }
  return found(request, key.slice(-1) === '/' ? key + 'index.html' : key);
}

function ofIndex(request, key, format) {
  const parts = key.split('/');
  if (parts[0] === 'simple') {
    return ofSimple(request, parts, format);
  }
  if (parts[0] === 'pypi') {
    return ofLegacy(request, parts);
  }
  return !key || key.slice(-1) === '/' ? answer(request, 404, {}) : found(request, key);
}

function ofSimple(request, parts, format) {
  const file = /^index\.(?:html|json)(?:\.gz)?$/;
  const count = parts.length;
  if (count === 2 && file.test(parts[1])) {
    return found(request, twin(request, parts.join('/')));
  }
  const slash = count > 1 && parts[count - 1] === '';
  if (count - (slash ? 1 : 0) <= 2) {  // simple, simple/, simple/NAME, simple/NAME/
    const given = count > 1 ? parts[1] : '';
    const name = given && normalised(given);
    if (name === null) {
      return answer(request, 404, {});
    }
    const folder = 'simple/' + (name ? name + '/' : '');
    if (!slash || name !== given) {
      return answer(request, 301, {location: '/' + folder + kept(format)});
    }
    const form = representation(header(request, 'accept'), format);
    return form ? found(request, twin(request, folder + 'index.' + form)) : answer(request, 406, {vary: 'Accept'});
  }
  if (count === 3 && file.test(parts[2]) && normalised(parts[1])) {
    // simple/Its_Name/index.html is an object, too, without a twin: for servers that know nothing of this
    const key = parts.join('/');
    return found(request, normalised(parts[1]) === parts[1] ? twin(request, key) : key);
  }
  return answer(request, 404, {});
}

function ofLegacy(request, parts) {
  const name = parts.length === 3 && /^json(?:\.gz)?$/.test(parts[2]) ? normalised(parts[1]) : null;
  if (name === null || (name !== parts[1] && parts[2] !== 'json')) {
    return answer(request, 404, {});
  }
  if (name !== parts[1]) {
    return answer(request, 301, {location: '/pypi/' + name + '/json'});
  }
  return found(request, twin(request, parts.join('/')));
}

// The headers of pages that the bucket cannot send: what they depend on, and a serial that is always new enough.
function dressed(uri, response) {
  const top = (decoded(uri) || '').split('/')[0];
  if (top === 'simple' || top === 'pypi') {
    response.headers.vary = {value: 'Accept, Accept-Encoding'};
    if (top === 'pypi') {
      response.headers['x-pypi-last-serial'] = {value: '/* serial */'};
    }
  }
  return response;
}

function found(request, key) {
  request.uri = '/' + encoded(key);
  return request;
}

function answer(request, code, headers) {
  const sent = {'x-content-type-options': {value: 'nosniff'}, 'content-type': {value: 'text/plain; charset=utf-8'}};
  for (const name in headers) {
    sent[name] = {value: headers[name]};
  }
  if (code === 301) {
    sent['cache-control'] = {value: REDIRECT_CACHING};
  }
  const text = request.method === 'HEAD' ? '' : TEXTS[code][1] + '\n';
  return {statusCode: code, statusDescription: TEXTS[code][0], headers: sent, body: {encoding: 'text', data: text}};
}

// The path without its first slash, each part decoded once and by itself; null for one that no object can have.
function decoded(path) {
  if (path[0] !== '/' || /[^ -~]|[\\#?]|%(?![0-9A-Fa-f]{2})/.test(path)) {
    return null;
  }
  let parts;
  try {
    parts = path.slice(1).split('/').map(decodeURIComponent);
  } catch (error) {
    return null;  // not UTF-8
  }
  for (let i = 0; i < parts.length; i++) {
    if ((!parts[i] && i < parts.length - 1) || parts[i][0] === '.' || /[\x00-\x1f\x7f-\x9f\/\\]/.test(parts[i])) {
      return null;
    }
  }
  return parts.join('/');
}

function encoded(key) {
  return key.split('/').map(encodeURIComponent).join('/');  // with + as %2B: S3 takes a bare one for a space
}

function inTree(key) {
  return TREES.some(function (tree) { return (key + '/').indexOf(tree + '/') === 0; });
}

function normalised(name) {
  return NAME.test(name) ? name.replace(/[-_.]+/g, '-').toLowerCase() : null;
}

function twin(request, key) {
  return key.slice(-3) !== '.gz' && acceptsGzip(header(request, 'accept-encoding')) ? key + '.gz' : key;
}

function kept(format) {
  return format && (JSON_FORMAT.test(format) || HTML_FORMAT.test(format)) ? '?format=' + format : '';
}

function header(request, name) {
  const given = request.headers[name];
  if (!given) {
    return '';
  }
  return given.multiValue ? given.multiValue.map(function (one) { return one.value; }).join(', ') : given.value;
}

function formatOf(query) {
  for (const name in query) {
    if (name.toLowerCase() === 'format') {
      return query[name].value;  // the first one
    }
  }
  return null;
}

function trimmed(text) {
  return text.replace(/^[ \t]+|[ \t]+$/g, '').toLowerCase();
}

// The parameter q, by default 1; null for a weight that is none.
function weightOf(parameters) {
  const given = parameters.filter(function (one) { return one.slice(0, 2) === 'q='; })[0];
  const text = given === undefined ? '1' : given.slice(2);
  return /^(?:0(?:\.[0-9]*)?|1(?:\.0*)?)$/.test(text) ? parseFloat(text) : null;
}

function acceptsGzip(text) {
  const members = text.split(',');
  for (let i = 0; i < members.length; i++) {
    const parts = members[i].split(';').map(trimmed);
    if (parts[0] === 'gzip') {
      return weightOf(parts.slice(1)) > 0;
    }
  }
  return false;
}

// The form that the client would rather have; null if it takes neither. HTML where it is all one.
function representation(accept, format) {
  if (format) {
    return JSON_FORMAT.test(format) ? 'json' : HTML_FORMAT.test(format) ? 'html' : null;
  }
  const weights = {};
  let said = false;
  accept.split(',').forEach(function (member) {
    const parts = member.split(';').map(trimmed);
    const weight = weightOf(parts.slice(1));
    said = said || trimmed(member) !== '';
    if (trimmed(member) !== '' && weight !== null) {
      weights[' ' + parts[0]] = Math.max(weight, weights[' ' + parts[0]] || 0);
    }
  });
  if (!said) {
    return 'html';
  }
  const json = best(weights, [JSON_NAMES, ['application/*'], ['*/*']]);
  const html = best(weights, [HTML_NAMES, ['text/*', 'application/*'], ['*/*']]);
  return json > html ? 'json' : html > 0 ? 'html' : null;
}

// The weight by the first group of which one is named: the more specific range counts.
function best(weights, groups) {
  for (let i = 0; i < groups.length; i++) {
    const named = groups[i].map(function (name) { return weights[' ' + name]; });
    const known = named.filter(function (weight) { return weight !== undefined; });
    if (known.length) {
      return Math.max.apply(null, known);
    }
  }
  return 0;
}
