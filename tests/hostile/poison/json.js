// tries: JSON.stringify and JSON.parse, and toJSON on everything
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
JSON.stringify = () => { for (;;); };
JSON.parse = () => { throw new Error('poisoned'); };
String.prototype.toJSON = () => 'poisoned';
Object.prototype.toJSON = () => { throw new Error('poisoned'); };

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
