// tries: to freeze all there is
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
for (const name of Object.getOwnPropertyNames(globalThis)) {
  const value = globalThis[name];
  if (typeof value === 'function' && value.prototype) Object.freeze(value.prototype);
  if (typeof value === 'object' || typeof value === 'function') Object.freeze(value);
}

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
