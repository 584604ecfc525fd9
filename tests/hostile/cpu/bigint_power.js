// tries: one single power of BigInt that takes minutes
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(String((7n ** (2n ** 23n)).toString().length));
  },
};
