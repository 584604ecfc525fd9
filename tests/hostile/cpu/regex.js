// tries: a regular expression that backtracks for longer than the sun burns
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(String(/^(a+)+$/.test('a'.repeat(60) + 'b')));
  },
};
