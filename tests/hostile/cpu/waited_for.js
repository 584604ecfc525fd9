// tries: a loop in waitUntil, begun after the answer
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
// answered: maybe
export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    ctx.waitUntil((async () => {
      await scheduler.wait(20);
      for (;;);
    })());
    return new Response('answered');
  },
};
