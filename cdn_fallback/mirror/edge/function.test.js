// What function.js is to do. Written by cdn-fallback, from the same rules as its own server's. Run it with
//
//   node --test
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const test = require('node:test');
const vm = require('node:vm');

const SOURCE = fs.readFileSync(path.join(__dirname, 'function.js'), 'utf8');
const handler = vm.runInNewContext('"use strict";' + SOURCE + ';handler');

function asked(one) {
  const headers = {};
  for (const name of Object.keys(one.headers)) {
    headers[name] = {value: one.headers[name]};
  }
  const querystring = one.format === undefined ? {} : {format: {value: one.format}, other: {value: 'x'}};
  const request = {method: one.method || 'GET', uri: one.uri, querystring, headers, cookies: {}};
  return {version: '1.0', context: {eventType: 'viewer-request'}, viewer: {ip: '192.0.2.1'}, request};
}

// What is asked for; then the key that the bucket is asked for, or a status, and where to
const CASES = [
{{cases}}
];

for (const one of CASES) {
  test(`${one.method || 'GET'} ${one.uri} ${JSON.stringify(one.headers)} ${one.format || ''}`, () => {
    const got = handler(asked(one));
    if (one.key !== undefined) {
      assert.strictEqual(got.uri, one.key);
      assert.strictEqual(Object.keys(got.querystring).length, 0);
    } else {
      assert.strictEqual(got.statusCode, one.status);
      assert.strictEqual(got.headers.location && got.headers.location.value, one.location);
    }
  });
}

test('answers say what they depend on', () => {
  for (const [uri, vary, serial] of [
    ['/simple/six/', 'Accept, Accept-Encoding', undefined],
    ['/simple/six/index.json.gz', 'Accept, Accept-Encoding', undefined],
    ['/pypi/six/json.gz', 'Accept, Accept-Encoding', '{{serial}}'],
    ['/packages/six-1.0.tar.gz', undefined, undefined]
  ]) {
    const event = {context: {eventType: 'viewer-response'}, request: {uri}, response: {statusCode: 200, headers: {}}};
    const headers = handler(event).headers;
    assert.strictEqual(headers.vary && headers.vary.value, vary);
    assert.strictEqual(headers['x-pypi-last-serial'] && headers['x-pypi-last-serial'].value, serial);
  }
});

test('it is no larger than CloudFront takes', () => {
  assert.ok(Buffer.byteLength(SOURCE) <= 10240);
});
