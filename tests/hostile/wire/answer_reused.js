// tries: one answer for many requests
// contained: any
// ask: many
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    globalThis.kept ??= new Response('contained');
    return globalThis.kept;
  },
};
