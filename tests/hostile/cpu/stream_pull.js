// tries: a loop in a stream's pull
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
// answered: maybe
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(new ReadableStream({ pull() { for (;;); } }));
  },
};
