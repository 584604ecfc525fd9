// tries: Response, Request, Headers and their like
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
for (const name of ['Response', 'Request', 'Headers', 'Error', 'Promise', 'Set', 'String', 'Object']) {
  globalThis[`kept${name}`] = globalThis[name];
}
globalThis.Request = class {};
globalThis.Headers = class {};
globalThis.Error = class {};
globalThis.Promise = class {};
globalThis.String = () => { throw 'poisoned'; };

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
