// tries: a stream in two branches, of which one is read
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    let left = 64;
    const source = new ReadableStream({
      pull(controller) {
        if (left === 0) return controller.close();
        left -= 1;
        controller.enqueue(new Uint8Array(8 << 20).fill(1));
      },
    });
    const [read, unread] = source.tee();
    for await (const piece of read) kept.push(piece.byteLength);
    kept.push(unread);
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
