// tries: a promise that resolves to a promise, very deep
// contained: served
// settings: {"limits": {"cpu_ms": 2000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let deep = Promise.resolve('contained');
    for (let i = 0; i < 1e5; i += 1) { const inner = deep; deep = new Promise((done) => done(inner)); }
    return new Response(await deep);
  },
};
