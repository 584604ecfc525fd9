// tries: an object whose text is far larger than itself
// contained: ended
// settings: {"limits": {"cpu_ms": 3000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const leaf = 'x'.repeat(1e4);
    let value = [leaf];
    for (let i = 0; i < 12; i += 1) value = Array(10).fill(value);
    return new Response(JSON.stringify(value));
  },
};
