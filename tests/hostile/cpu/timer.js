// tries: a loop in a timer
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    await new Promise(() => setTimeout(() => { for (;;); }, 5));
  },
};
