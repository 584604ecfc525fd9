// tries: a generator without an end
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const endless = (function* () { for (;;) yield 1; })();
    for (const _ of endless);
  },
};
