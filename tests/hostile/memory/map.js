// tries: a map that only grows
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = new Map();
    for (let i = 0; ; i += 1) kept.set({ i }, { i });
  },
};
