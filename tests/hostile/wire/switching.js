// tries: to switch protocols without a WebSocket
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(null, { status: 101 });
  },
};
