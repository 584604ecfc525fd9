// tries: a loop that catches whatever would end it
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) {
      try {
        throw new Error('again');
      } catch {
        continue;
      } finally {
        continue;
      }
    }
  },
};
