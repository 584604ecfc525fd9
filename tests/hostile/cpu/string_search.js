// tries: a search that compares everything with everything
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const hay = 'a'.repeat(3e6);
    for (;;) hay.lastIndexOf(`${'a'.repeat(1e6)}b`) + hay.replaceAll('aab', '').length;
  },
};
