// tries: an object of handlers that answers differently each time it is looked at
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
let looks = 0;

export default new Proxy({}, {
  get(_, name) {
    looks += 1;
    if (name === 'fetch') {
      return (request) => {
        if (request.method === 'GET') return new Response('calm');
        throw new Error(`looked at ${looks} times`);
      };
    }
    throw new Error('not to be looked at');
  },
  getPrototypeOf() { return this; },
  ownKeys() { return ['fetch']; },
  getOwnPropertyDescriptor() { return { configurable: true, enumerable: true, value: 1 }; },
});
