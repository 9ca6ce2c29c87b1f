# What apply.sh does, for Terraform. Written by cdn-fallback. Use one of the two, not both.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

provider "aws" {
  region = "{{region}}"
}

locals {
  name = "{{id}}"
}

data "aws_s3_bucket" "index" {
  bucket = "{{bucket}}"
}

resource "aws_cloudfront_function" "index" {
  name    = local.name
  comment = "{{function_comment}}"
  runtime = "{{runtime}}"
  code    = file("${path.module}/function.js")
  publish = true
}

# The object's key is all that is looked at; its own Cache-Control rules.
resource "aws_cloudfront_cache_policy" "index" {
  name        = local.name
  min_ttl     = {{min_ttl}}
  default_ttl = {{default_ttl}}
  max_ttl     = {{max_ttl}}

  parameters_in_cache_key_and_forwarded_to_origin {
    # The function chooses the twin. With true CloudFront would keep each twice.
    enable_accept_encoding_gzip   = false
    enable_accept_encoding_brotli = false

    headers_config {
      header_behavior = "none"
    }
    cookies_config {
      cookie_behavior = "none"
    }
    query_strings_config {
      query_string_behavior = "none"
    }
  }
}

resource "aws_cloudfront_response_headers_policy" "index" {
  name = local.name

  security_headers_config {
    content_type_options {
      override = true
    }
  }

  remove_headers_config {
    dynamic "items" {
      for_each = [
{{hidden}}
      ]
      content {
        header = items.value
      }
    }
  }
}

resource "aws_cloudfront_origin_access_control" "index" {
  name                              = local.name
  description                       = "Reads the package index"
  origin_access_control_origin_type = "s3"
  signing_behavior                  = "always"
  signing_protocol                  = "sigv4"
}

resource "aws_cloudfront_distribution" "index" {
  comment         = local.name
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = "PriceClass_All"
  aliases         = [{{aliases}}]

  origin {
    origin_id                = "bucket"
    domain_name              = "{{domain}}"
    origin_access_control_id = aws_cloudfront_origin_access_control.index.id
    connection_attempts      = 2
    connection_timeout       = 3
  }

  # One for all paths: the function must see every request.
  default_cache_behavior {
    target_origin_id           = "bucket"
    viewer_protocol_policy     = "redirect-to-https"
    allowed_methods            = ["HEAD", "GET"]
    cached_methods             = ["HEAD", "GET"]
    cache_policy_id            = aws_cloudfront_cache_policy.index.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.index.id
    compress                   = false

    function_association {
      event_type   = "viewer-request"
      function_arn = aws_cloudfront_function.index.arn
    }
    function_association {
      event_type   = "viewer-response"
      function_arn = aws_cloudfront_function.index.arn
    }
  }

  # What was published in the last minutes must be found soon.
  dynamic "custom_error_response" {
    for_each = toset([{{absent}}])
    content {
      error_code            = tonumber(custom_error_response.value)
      error_caching_min_ttl = {{absent_ttl}}
    }
  }
  dynamic "custom_error_response" {
    for_each = toset([{{broken}}])
    content {
      error_code            = tonumber(custom_error_response.value)
      error_caching_min_ttl = {{broken_ttl}}
    }
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  viewer_certificate {
{{certificate}}
  }
}

# Takes the place of a policy that the bucket has.
resource "aws_s3_bucket_policy" "index" {
  bucket = data.aws_s3_bucket.index.id
  policy = replace(
    file("${path.module}/bucket-policy.json"),
    "@DISTRIBUTION_ARN@",
    aws_cloudfront_distribution.index.arn
  )
}

output "domain_name" {
  value = aws_cloudfront_distribution.index.domain_name
}
