// tries: one huge text parsed again and again
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const text = `[${'[1,2,3],'.repeat(2e5)}0]`;
    for (;;) JSON.parse(text);
  },
};
