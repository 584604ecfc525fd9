// tries: Function.prototype.call, apply and bind
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
Function.prototype.call = () => { throw new Error('poisoned'); };
Function.prototype.apply = () => { throw new Error('poisoned'); };
Function.prototype.bind = () => { throw new Error('poisoned'); };

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
