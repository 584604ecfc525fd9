// tries: setters on Object.prototype that swallow
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
for (const name of ['fetch', 'ray', 'value', 'get', 'set', 'writable', 'enumerable', 'configurable']) {
  Object.defineProperty(Object.prototype, name, { configurable: true, set() {} });
}

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
