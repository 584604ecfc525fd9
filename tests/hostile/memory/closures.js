// tries: closures that each hold what they saw
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (;;) {
      const seen = Array(1e4).fill(kept.length);
      kept.push(() => seen);
    }
  },
};
