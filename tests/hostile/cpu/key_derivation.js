// tries: a key derived by as many rounds as may be asked for
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const secret = new TextEncoder().encode('secret');
    const key = await crypto.subtle.importKey('raw', secret, 'PBKDF2', false, ['deriveBits']);
    const how = { name: 'PBKDF2', hash: 'SHA-512', salt: secret, iterations: 100000 };
    for (;;) await crypto.subtle.deriveBits(how, key, 4096);
  },
};
