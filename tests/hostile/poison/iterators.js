// tries: the iterators of arrays, sets and strings
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
const fail = () => { throw new Error('poisoned'); };
Array.prototype[Symbol.iterator] = fail;
Set.prototype[Symbol.iterator] = fail;
String.prototype[Symbol.iterator] = fail;
Map.prototype[Symbol.iterator] = fail;

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
