// tries: answers of 1xx
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(null, { status: 103, headers: { link: '</x>; rel=preload' } });
  },
};
