// tries: never to answer, with a timer that keeps it awake
// contained: cut
// ask: impatient
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (;;) await scheduler.wait(50);
  },
};
