// tries: to leave an endless body unread
// contained: any
// ask: endless_body
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    await scheduler.wait(500);
    return new Response('contained');
  },
};
