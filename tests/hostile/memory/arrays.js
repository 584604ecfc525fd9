// tries: arrays that are never let go
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (;;) kept.push(Array(1e5).fill(kept.length));
  },
};
