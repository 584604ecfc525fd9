// Not an attack: every way in which a worker waits for something, and finds the clock moved on.
// Must be seen: after each of them, all clocks show what has passed since.
import { setTimeout as sleep } from 'node:timers/promises';
const PAUSE_MS = 15;
const read = () => [Date.now(), performance.now(), new Date().getTime(), new File([], 'x').lastModified];
const later = (call) => new Promise((resolve) => { setTimeout(() => resolve(call?.()), PAUSE_MS); });

function delayed() {
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  later(async () => { await writer.write(new Uint8Array(3)); await writer.close(); });
  return readable;
}

async function readStream() {
  const reader = delayed().getReader();
  await reader.read();
}

async function pulled() {
  const stream = new ReadableStream({
    async pull(controller) { await later(); controller.enqueue(new Uint8Array(1)); controller.close(); },
  });
  await new Response(stream).arrayBuffer();
}

function spoken() {
  const [client, server] = Object.values(new WebSocketPair());
  client.accept();
  server.accept();
  server.addEventListener('message', ({ data }) => later(() => server.send(data)));
  client.send('x');
  return new Promise((resolve) => { client.addEventListener('message', resolve); });
}

const aborted = () => new Promise((resolve) => {
  AbortSignal.timeout(PAUSE_MS).addEventListener('abort', resolve);
});

const repeated = () => new Promise((resolve) => {
  const timer = setInterval(() => { clearInterval(timer); resolve(); }, PAUSE_MS);
});

export default {
  async fetch(request, env, ctx) {
    if (request.url.endsWith('/slow')) {
      await scheduler.wait(PAUSE_MS);
      return new Response('slow');
    }
    const WAYS = {
      wait: () => scheduler.wait(PAUSE_MS),
      timeout: () => later(),
      interval: repeated,
      node: () => sleep(PAUSE_MS),
      abort: aborted,
      fetch: () => ctx.exports.default.fetch('http://self/slow'),
      body: () => new Response(delayed()).text(),
      stream: readStream,
      pull: pulled,
      socket: spoken,
      immediate: async () => { await scheduler.wait(PAUSE_MS); await new Promise((go) => { setImmediate(go); }); },
    };
    const advanced = {};
    for (const [name, way] of Object.entries(WAYS)) {
      const before = read();
      await way();
      const after = read();
      advanced[name] = after.every((time, at) => {
        const passed = time - before[at];
        return passed >= PAUSE_MS - 1 && passed < 5000;
      });
    }
    return Response.json({ advanced });
  },
};
