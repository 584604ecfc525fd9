// tries: a loop in a transform, half an answer later
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
// answered: maybe
export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    const { readable, writable } = new TransformStream({
      transform(chunk, controller) {
        controller.enqueue(chunk);
        for (;;);
      },
    });
    const writer = writable.getWriter();
    ctx.waitUntil(writer.write(new TextEncoder().encode('half')));
    return new Response(readable);
  },
};
