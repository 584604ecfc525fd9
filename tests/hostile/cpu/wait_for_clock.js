// tries: a wait by looking at the clock
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const end = Date.now() + 600000;
    while (Date.now() < end);
    return new Response('waited');
  },
};
