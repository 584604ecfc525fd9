// tries: a stream that is filled and never read
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    new ReadableStream({
      start(controller) {
        for (let i = 0; i < 64; i += 1) {
          const piece = new Uint8Array(8 << 20).fill(1);
          controller.enqueue(piece);
          kept.push(i);
        }
      },
    });
    return new Response(kept.length === 64 ? 'reached: 512 MiB' : `refused after ${kept.length}`);
  },
};
