// A server for tests: each path does what its name says.
import { gzipSync } from 'node:zlib';
let begun = 0;
let gone = 0;
function stream(chunks, wait) {
  let sent = 0;
  return new ReadableStream({
    async pull(controller) {
      if (sent >= chunks.length) {
        controller.close();
        return;
      }
      if (wait && sent > 0) {
        await scheduler.wait(wait);
      }
      controller.enqueue(chunks[sent]);
      sent += 1;
    },
  });
}
const text = (word) => new TextEncoder().encode(word);
const paths = {
  '/head': (request) => Response.json({
    method: request.method, url: request.url, headers: [...request.headers], cf: request.cf ?? null,
  }),
  '/big': (request) => new Response(new Uint8Array(Number(new URL(request.url).searchParams.get('n')))),
  '/chunked': () => new Response(stream([text('one '), text('two '), text('three')], 20)),
  '/gzip': () => {
    const packed = gzipSync(Buffer.from('packed '.repeat(1000)));
    return new Response(packed, {
      headers: { 'content-encoding': 'gzip', 'x-packed': String(packed.length) }, encodeBody: 'manual',
    });
  },
  '/echo': (request) => new Response(request.body),
  '/count': async (request) => new Response(String((await request.arrayBuffer()).byteLength)),
  '/slow': async () => { await scheduler.wait(60_000); return new Response('late'); },
  '/stall': () => new Response(stream([text('first'), text('never')], 60_000)),
  '/endless': async (request) => {
    begun += 1;
    request.signal.addEventListener('abort', () => { gone += 1; });
    return new Response(new ReadableStream({
      async pull(controller) {
        await scheduler.wait(10);
        controller.enqueue(new Uint8Array(1000));
      },
    }));
  },
  '/gone': () => Response.json({ begun, gone }),
  '/304': () => new Response(null, { status: 304, headers: { etag: '"x"' } }),
  '/204': () => new Response(null, { status: 204 }),
  '/404': () => new Response('no such page', { status: 404, statusText: 'Nope' }),
  '/cookies': () => {
    const headers = new Headers();
    headers.append('set-cookie', 'a=1');
    headers.append('set-cookie', 'b=2');
    return new Response('', { headers });
  },
  '/redirect': (request) => Response.redirect(new URL('/head', request.url), 302),
  '/marks': () => new Response('not ours', {
    headers: { 'x-kythera-refused': 'private', 'x-kythera-egress': 'token' },
  }),
  '/heads': (request) => new Response('', {
    headers: { 'x-big': 'x'.repeat(Number(new URL(request.url).searchParams.get('n'))) },
  }),
  '/ws': () => {
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.binaryType = 'arraybuffer';
    server.addEventListener('message', ({ data }) => {
      if (data === 'close') {
        server.close(4001, 'as asked');
      } else {
        server.send(data);
      }
    });
    return new Response(null, { status: 101, webSocket: client, headers: { 'sec-websocket-protocol': 'chat' } });
  },
};
export default {
  fetch(request) {
    const path = paths[new URL(request.url).pathname];
    return path ? path(request) : new Response('unknown', { status: 404 });
  },
};
