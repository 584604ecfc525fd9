// tries: turns that each burn a little less than the limit, for seconds
// contained: served
// settings: {"limits": {"cpu_ms": 500}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let x = 0;
    for (let turn = 0; turn < 40; turn += 1) {
      for (let i = 0; i < 1e7; i += 1) x += i % 7;
      await scheduler.wait(0);
    }
    return new Response(`contained ${x}`);
  },
};
