// tries: ten thousand headers in an answer
// contained: noAnswer
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const headers = new Headers();
    for (let i = 0; i < 1e4; i += 1) headers.append(`x-h${i}`, 'v');
    return new Response('contained', { headers });
  },
};
