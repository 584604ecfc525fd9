// tries: headers that are the platform's own
// contained: any
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const headers = { 'x-kythera-own': '1', 'x-kythera-refused': '1', 'cf-ray': 'forged', server: 'forged' };
    return new Response('contained', { status: 404, headers });
  },
};
