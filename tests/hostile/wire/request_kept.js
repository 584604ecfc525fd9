// tries: to go on with another request's body and streams
// contained: any
// ask: many
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    globalThis.kept ??= request;
    return new Response(await globalThis.kept.text().catch((error) => `contained ${error.name}`));
  },
};
