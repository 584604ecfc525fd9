// tries: timers that each hold memory
// contained: ended
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; ; i += 1) {
      const held = Array(1e4).fill(i);
      setTimeout(() => held, 3600000);
    }
  },
};
