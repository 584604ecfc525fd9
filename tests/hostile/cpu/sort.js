// tries: sorts of huge arrays, each one native call
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) Array.from({ length: 1e6 }, Math.random).sort();
  },
};
