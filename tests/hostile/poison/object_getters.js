// tries: getters on Object.prototype for every name the platform reads
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
for (const name of ['fetch', 'then', 'ray', 'name', 'message', 'stack', 'scheduled', 'tail', 'get']) {
  Object.defineProperty(Object.prototype, name, {
    configurable: true,
    get() { throw new Error(`poisoned ${name}`); },
    set(value) { Object.defineProperty(this, name, { value, writable: true, configurable: true }); },
  });
}

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
