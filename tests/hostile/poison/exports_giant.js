// tries: to make the platform read a giant answer when it asks what it exports
// contained: refusedUpload
// settings: {"limits": {"cpu_ms": 100}}
Object.prototype.toJSON = () => 'x'.repeat(3e7);

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
