// tries: one byte a second, for as long as somebody listens
// contained: cut
// ask: impatient
export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    const { readable, writable } = new TransformStream();
    ctx.waitUntil((async () => {
      const writer = writable.getWriter();
      for (;;) {
        await writer.write(new Uint8Array(1));
        await scheduler.wait(1000);
      }
    })().catch(() => {}));
    return new Response(readable);
  },
};
