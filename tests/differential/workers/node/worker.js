// nodejs_compat: what libraries from npm lean on.
import { AsyncLocalStorage } from 'node:async_hooks';
import { Buffer } from 'node:buffer';
import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { inspect, promisify, types } from 'node:util';
import { gzipSync, gunzipSync } from 'node:zlib';
import process from 'node:process';
import assert from 'node:assert';
import { parse } from 'node:querystring';

const context = new AsyncLocalStorage();
export default {
  async fetch() {
    const emitter = new EventEmitter();
    const heard = once(emitter, 'word');
    emitter.emit('word', 'heard');
    const collected = [];
    await pipeline(Readable.from(['a', 'b']), async function* (source) {
      for await (const part of source) {
        collected.push(String(part));
      }
    });
    let failed = '';
    try {
      assert.deepStrictEqual({ a: 1 }, { a: 2 });
    } catch (error) {
      failed = error.code;
    }
    return Response.json({
      base64: Buffer.from('grüße').toString('base64url'),
      slice: Buffer.concat([Buffer.from('ab'), Buffer.alloc(1, 'c')]).toString(),
      integer: Buffer.from([1, 2, 3, 4]).readUInt32BE(0),
      hash: createHash('sha256').update('a').digest('hex'),
      hmac: createHmac('sha1', 'k').update('a').digest('base64'),
      random: randomBytes(4).length,
      equal: timingSafeEqual(Buffer.from('a'), Buffer.from('a')),
      path: path.join('/a', '..', 'b', './c.txt') + path.extname('x.tar.gz'),
      heard: await heard,
      collected,
      failed,
      stored: await context.run('here', async () => { await null; return context.getStore(); }),
      inspected: inspect({ a: [1, { b: new Map([[1, 2]]) }] }, { depth: 4 }),
      promised: await promisify((value, done) => done(null, value))(7),
      isDate: types.isDate(new Date()),
      zip: gunzipSync(gzipSync('zipped')).toString(),
      platform: process.platform,
      cwd: process.cwd(),
      argv: process.argv.length,
      exit: typeof process.exit,
      tick: await new Promise((done) => process.nextTick(done, 'ticked')),
      query: parse('a=1&a=2'),
    });
  },
};
