// tries: the same with an answer nested beyond measure
// contained: refusedUpload
// settings: {"limits": {"cpu_ms": 100}}
let DEEP = [];
for (let i = 0; i < 3000; i += 1) DEEP = [DEEP];
Array.prototype.toJSON = null;
Object.prototype.toJSON = () => DEEP;

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
