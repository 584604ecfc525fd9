// tries: strings made, cut, turned round and joined
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) 'x'.repeat(1e6).split('').reverse().join('');
  },
};
