// tries: a loop in what the platform reads of its answer
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return { get then() { for (;;); } };
  },
};
