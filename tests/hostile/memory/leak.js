// tries: a little more with each request
// contained: boundedMemory
// ask: many
const kept = [];

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    kept.push(new Uint8Array(32 << 20).fill(1));
    return new Response(kept.length < 16 ? 'more' : 'reached: 512 MiB');
  },
};
