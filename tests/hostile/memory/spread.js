// tries: an endless iterator spread into an array
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const endless = { *[Symbol.iterator]() { for (;;) yield {}; } };
    return new Response(String([...endless].length));
  },
};
