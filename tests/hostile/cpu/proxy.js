// tries: a loop inside a proxy's trap
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const trapped = new Proxy({}, { get() { for (;;); } });
    return new Response(trapped.body);
  },
};
