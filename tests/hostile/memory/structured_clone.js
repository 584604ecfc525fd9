// tries: clones that are kept
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [{ list: Array(1e5).fill({ a: 1 }) }];
    for (;;) kept.push(structuredClone(kept[0]));
  },
};
