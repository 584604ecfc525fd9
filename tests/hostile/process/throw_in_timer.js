// tries: exceptions outside of any request
// contained: served
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; i < 100; i += 1) setTimeout(() => { throw new Error('in a timer'); }, 1);
    await scheduler.wait(50);
    return new Response('contained');
  },
};
