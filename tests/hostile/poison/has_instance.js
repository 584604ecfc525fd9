// tries: Symbol.hasInstance
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
Object.defineProperty(Error, Symbol.hasInstance, { value: () => { throw new Error('poisoned'); } });
Object.defineProperty(Response, Symbol.hasInstance, { value: () => false });
Object.defineProperty(Function.prototype, Symbol.toPrimitive, { value: () => { throw new Error('poisoned'); } });

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
