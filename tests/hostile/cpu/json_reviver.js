// tries: a reviver that never ends
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    JSON.parse('{"a":1}', () => { for (;;); });
  },
};
