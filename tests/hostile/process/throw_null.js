// tries: to throw nothing
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw null;
  },
};
