// tries: to print without end
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) console.log('x'.repeat(1000));
  },
};
