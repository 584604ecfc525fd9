// tries: Symbol.species and constructors
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
for (const kind of [Array, Promise, RegExp, ArrayBuffer]) {
  Object.defineProperty(kind, Symbol.species, { get() { throw new Error('poisoned'); } });
}
Object.defineProperty(Promise.prototype, 'constructor', { get() { throw new Error('poisoned'); } });

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
