// tries: never to answer
// contained: any
// ask: impatient
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    await new Promise(() => {});
  },
};
