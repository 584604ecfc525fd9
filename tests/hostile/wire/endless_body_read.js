// tries: to read an endless body
// contained: cut
// ask: endless_body
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let bytes = 0;
    for await (const chunk of request.body) bytes += chunk.byteLength;
    return new Response(`an end after ${bytes}`);
  },
};
