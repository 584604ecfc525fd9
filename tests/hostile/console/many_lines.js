// tries: a hundred thousand lines, within its limit
// contained: served
// settings: {"limits": {"cpu_ms": 1000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let turn = 0; turn < 100; turn += 1) {
      for (let i = 0; i < 1000; i += 1) console.log(`line ${turn} ${i}`);
      await scheduler.wait(0);
    }
    return new Response('contained');
  },
};
