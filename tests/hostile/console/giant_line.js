// tries: one line of 64 MiB
// contained: any
// settings: {"limits": {"cpu_ms": 1000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    console.log('x'.repeat(64 << 20));
    return new Response('contained');
  },
};
