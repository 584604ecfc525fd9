// tries: a header of a mebibyte in an answer
// contained: noAnswer
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response('contained', { headers: { 'x-large': 'h'.repeat(1 << 20) } });
  },
};
