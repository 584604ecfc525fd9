// tries: answers that are promises of their own making
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return { then(done) { done({ then(again) { again(new Response('contained')); } }); } };
  },
};
