// tries: to throw where its own traces are told
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('from fetch');
  },
  tail() { throw new Error('from tail'); },
  trace() { for (;;); },
};
