// tries: digests, one after another
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const bytes = new Uint8Array(1 << 20);
    for (;;) await crypto.subtle.digest('SHA-512', bytes);
  },
};
