// tries: answers to nobody, each with a body
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (let i = 0; i < 64; i += 1) kept.push(new Response(new Uint8Array(8 << 20).fill(1)));
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
