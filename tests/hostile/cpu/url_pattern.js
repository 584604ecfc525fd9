// tries: the same by way of URLPattern
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const pattern = new URLPattern({ pathname: '/((?:a+)+)b' });
    return new Response(String(pattern.test({ pathname: `/${'a'.repeat(60)}` })));
  },
};
