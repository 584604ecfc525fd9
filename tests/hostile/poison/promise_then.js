// tries: Promise.prototype.then
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
const original = Promise.prototype.then;
Promise.prototype.then = function then(...rest) {
  if (globalThis.poisoned > 1000) throw new Error('poisoned');
  globalThis.poisoned = (globalThis.poisoned ?? 0) + 1;
  return original.apply(this, rest);
};
Promise.resolve = () => { throw new Error('poisoned'); };

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
