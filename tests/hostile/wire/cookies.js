// tries: a thousand cookies
// contained: noAnswer
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const headers = new Headers();
    for (let i = 0; i < 1000; i += 1) headers.append('set-cookie', `c${i}=${'v'.repeat(100)}`);
    return new Response('contained', { headers });
  },
};
