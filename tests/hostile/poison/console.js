// tries: the console, by which exceptions are told
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
for (const name of Object.keys(console)) console[name] = () => { throw new Error('poisoned'); };
globalThis.console = null;

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
