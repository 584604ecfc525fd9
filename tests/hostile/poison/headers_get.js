// tries: the methods by which a request is read
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
Headers.prototype.get = () => { throw new Error('poisoned'); };
Headers.prototype.has = () => { for (;;); };
Object.defineProperty(Request.prototype, 'headers', { get() { throw new Error('poisoned'); } });

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
