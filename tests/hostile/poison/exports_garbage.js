// tries: to make the platform read nonsense when it asks what it exports
// contained: refusedUpload
// settings: {"limits": {"cpu_ms": 100}}
Object.prototype.toJSON = () => ({ handlers: 7 });

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
