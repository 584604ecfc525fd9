// tries: a sort whose comparator never ends
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    [3, 1, 2].sort(() => { for (;;); });
  },
};
