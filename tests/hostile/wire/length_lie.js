// tries: an answer shorter than it says
// contained: cut
export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    const { readable, writable } = new FixedLengthStream(1 << 20);
    ctx.waitUntil((async () => {
      const writer = writable.getWriter();
      await writer.write(new Uint8Array(10));
      await writer.abort(new Error('enough'));
    })().catch(() => {}));
    return new Response(readable);
  },
};
