// tries: an empty loop
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;);
  },
};
