// tries: a little more of the heap with each request
// contained: exceededMemory
// ask: many
const kept = [];

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    kept.push(Array.from({ length: 5e5 }, (_, i) => ({ i })));
    return new Response(kept.length < 20 ? 'more' : 'reached: every request was kept');
  },
};
