// tries: a power of BigInt, one native call after another
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let n = 3n;
    for (;;) n = n * n % (2n ** 9999n) + 1n;
  },
};
