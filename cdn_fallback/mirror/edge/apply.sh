#!/usr/bin/env bash
# Makes a CloudFront distribution before the bucket {{bucket}}, or brings the one that it has made up to date.
# Written by cdn-fallback. Run it as often as you like: each part is found by its name, {{id}}.
# It needs the aws CLI (version 2, or a late 1), with credentials that may change CloudFront and the bucket's policy.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export AWS_PAGER="" AWS_DEFAULT_OUTPUT=text

name={{id}}
bucket={{bucket}}
host={{name}}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'apply.sh: %s\n' "$*" >&2
  exit 1
}
command -v aws >/dev/null || fail "the aws CLI is not there; install it (https://aws.amazon.com/cli/) and run this again"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# found LIST-COMMAND QUERY TYPE: the id of the part with our name, or nothing. A long list comes in pages, and each
# that does not have it says None.
found() {
  local ids
  ids=$(aws cloudfront "$1" ${3:+--type "$3"} --query "$2 | [0]")
  sed -n '/^None$/d;/./{p;q;}' <<<"$ids"
}

# part KIND ID-QUERY LIST-QUERY LIST-TYPE CONFIG-OPTION FILE: make or update a part; its id is in $id then
part() {
  local kind=$1 list=$1s etag
  case $kind in *-policy) list=${1%y}ies ;; esac
  id=$(found "list-$list" "$3" "$4")
  if [ -z "$id" ]; then
    say "making the $kind $name"
    id=$(aws cloudfront "create-$kind" "--$5" "file://$6" --query "$2")
  else
    say "updating the $kind $name ($id)"
    etag=$(aws cloudfront "get-$kind" --id "$id" --query ETag)
    aws cloudfront "update-$kind" --id "$id" --if-match "$etag" "--$5" "file://$6" >"$work/answer"
  fi
}

stage() { aws cloudfront describe-function --name "$name" --stage DEVELOPMENT --query ETag; }
if etag=$(stage 2>"$work/error"); then
  say "updating the function $name"
  aws cloudfront update-function --name "$name" --if-match "$etag" \
    --function-config file://function.json --function-code fileb://function.js >"$work/answer"
elif grep -q NoSuchFunctionExists "$work/error"; then
  say "making the function $name"
  aws cloudfront create-function --name "$name" \
    --function-config file://function.json --function-code fileb://function.js >"$work/answer"
else
  fail "CloudFront cannot be asked: $(cat "$work/error")"
fi
say "publishing the function"
etag=$(stage)
function=$(aws cloudfront publish-function --name "$name" --if-match "$etag" \
  --query FunctionSummary.FunctionMetadata.FunctionARN)

part cache-policy CachePolicy.Id \
  "CachePolicyList.Items[?CachePolicy.CachePolicyConfig.Name=='$name'].CachePolicy.Id" custom \
  cache-policy-config cache-policy.json
caching=$id
part response-headers-policy ResponseHeadersPolicy.Id \
  "ResponseHeadersPolicyList.Items[].ResponseHeadersPolicy|[?ResponseHeadersPolicyConfig.Name=='$name'].Id" custom \
  response-headers-policy-config response-headers-policy.json
answers=$id
part origin-access-control OriginAccessControl.Id \
  "OriginAccessControlList.Items[?Name=='$name'].Id" "" \
  origin-access-control-config origin-access-control.json
access=$id

sed -e "s|@FUNCTION_ARN@|$function|" -e "s|@CACHE_POLICY_ID@|$caching|" \
  -e "s|@RESPONSE_HEADERS_POLICY_ID@|$answers|" -e "s|@ORIGIN_ACCESS_CONTROL_ID@|$access|" \
  distribution.json >"$work/distribution.json"
part distribution Distribution.Id "DistributionList.Items[?Comment=='$name'].Id" "" \
  distribution-config "$work/distribution.json"
arn=$(aws cloudfront get-distribution --id "$id" --query Distribution.ARN)
domain=$(aws cloudfront get-distribution --id "$id" --query Distribution.DomainName)

sed -e "s|@DISTRIBUTION_ARN@|$arn|" bucket-policy.json >"$work/bucket-policy.json"
if aws s3api get-bucket-policy --bucket "$bucket" --query Policy >"$work/policy" 2>"$work/error"; then
  sids=$(grep -o '"Sid": *"[^"]*"' "$work/policy" | sed 's/.*: *//' | sort | tr '\n' ' ')
  if [ "$sids" != '"ButNotTheMark" "TheCdnReads" ' ]; then
    say "The bucket has a policy of its own. Put these statements into it, and run this again if you like:"
    cat "$work/bucket-policy.json"
    fail "the policy of the bucket $bucket was left as it is; everything else is done"
  fi
elif ! grep -q NoSuchBucketPolicy "$work/error"; then
  fail "the bucket's policy cannot be read: $(cat "$work/error")"
fi
say "letting the distribution read the bucket $bucket"
aws s3api put-bucket-policy --bucket "$bucket" --policy "file://$work/bucket-policy.json"

say
say "Done. CloudFront needs some minutes until all of its places know:"
say "  aws cloudfront wait distribution-deployed --id $id"
say "  curl -sI -H 'Accept: application/vnd.pypi.simple.v1+json' https://$domain/simple/"
say "When that is right, point the name there ($host must be in the distribution's certificate):"
say "  $host. 300 IN CNAME $domain."
