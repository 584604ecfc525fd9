// tries: promises that wait for each other without end
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) Promise.resolve(Array(1e3).fill(1)).then(() => new Promise(() => {}));
  },
};
