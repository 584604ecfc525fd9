// tries: a second answer, smuggled in a header
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response('x', { headers: { 'x-split': 'a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nreached' } });
  },
};
