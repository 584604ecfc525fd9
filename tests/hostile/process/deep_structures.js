// tries: structures so deep that whoever walks them falls
// contained: any
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let deep = [];
    for (let i = 0; i < 1e5; i += 1) deep = [deep];
    return new Response(JSON.stringify(deep).length > 0 ? 'contained' : '');
  },
};
