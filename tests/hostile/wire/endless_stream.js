// tries: an answer without an end, read as fast as it comes
// contained: cut
// ask: read
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const piece = new Uint8Array(65536);
    return new Response(new ReadableStream({ pull(controller) { controller.enqueue(piece); } }));
  },
};
