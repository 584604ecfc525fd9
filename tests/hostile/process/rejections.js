// tries: a storm of rejections that nobody handles
// contained: served
// settings: {"limits": {"cpu_ms": 2000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; i < 1e4; i += 1) Promise.reject(new Error(`unhandled ${i}`));
    await scheduler.wait(10);
    return new Response('contained');
  },
};
