// tries: a loop while a stack trace is made
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    Error.prepareStackTrace = () => { for (;;); };
    return new Response(new Error('odd').stack);
  },
};
