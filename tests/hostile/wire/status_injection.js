// tries: a second answer, smuggled in the status's text
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response('x', { status: 200, statusText: 'OK\r\nx-split: 1\r\n\r\nreached' });
  },
};
