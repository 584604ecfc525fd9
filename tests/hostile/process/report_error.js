// tries: reportError in a loop
// contained: served
// settings: {"limits": {"cpu_ms": 2000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    globalThis.addEventListener('error', () => {});
    for (let i = 0; i < 1e4; i += 1) reportError(new Error(`reported ${i}`));
    return new Response('contained');
  },
};
