// tries: headers that steer the connection
// contained: any
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const headers = { 'transfer-encoding': 'chunked', connection: 'upgrade, keep-alive', 'content-length': '3', upgrade: 'h2c', te: 'trailers', trailer: 'x-late' };
    return new Response('contained', { headers });
  },
};
