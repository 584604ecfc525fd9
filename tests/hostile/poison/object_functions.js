// tries: Object's own functions
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
for (const name of ['getOwnPropertyNames', 'getPrototypeOf', 'defineProperty', 'freeze', 'entries']) {
  Object[name] = () => { throw new Error('poisoned'); };
}

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
