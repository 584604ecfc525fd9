// tries: a loop that prints now and then
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; ; i += 1) if (i % 1e5 === 0) console.log(i);
  },
};
