// tries: to echo an endless body
// contained: cut
// ask: endless_body
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(request.body);
  },
};
