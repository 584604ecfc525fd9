// tries: a chain of promises that never lets the event loop turn
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) await null;
  },
};
