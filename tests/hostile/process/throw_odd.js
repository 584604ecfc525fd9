// tries: to throw what can hardly be told
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const odd = new Proxy(new Error('odd'), { get() { throw odd; }, getPrototypeOf() { throw odd; } });
    throw odd;
  },
};
