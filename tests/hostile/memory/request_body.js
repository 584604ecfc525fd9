// tries: to hold a body that never ends
// contained: boundedMemory
// ask: endless_body
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const text = await request.text();
    return new Response(`reached: ${text.length} characters`);
  },
};
