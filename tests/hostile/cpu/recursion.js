// tries: a recursion without an end
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const deeper = () => deeper() + 1;
    return new Response(String(deeper()));
  },
};
