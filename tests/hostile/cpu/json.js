// tries: JSON there and back again
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const value = Array(1e5).fill({ a: 1 });
    for (;;) JSON.parse(JSON.stringify(value));
  },
};
