// tries: an error in the middle of an answer
// contained: cut
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let pulls = 0;
    return new Response(new ReadableStream({
      pull(controller) {
        pulls += 1;
        if (pulls > 3) throw new Error('enough');
        controller.enqueue(new Uint8Array(1000));
      },
    }));
  },
};
