// tries: an exception of 64 MiB
// contained: ended
// settings: {"limits": {"cpu_ms": 1000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('x'.repeat(64 << 20));
  },
};
