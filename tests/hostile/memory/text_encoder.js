// tries: bytes of texts
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    const text = 'x'.repeat(8 << 20);
    for (let i = 0; i < 64; i += 1) kept.push(new TextEncoder().encode(text));
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
