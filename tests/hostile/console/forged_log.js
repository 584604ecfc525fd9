// tries: lines that look like the agent's log
// contained: served
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    console.log('{"event": "cell_exceeded", "level": "error", "worker": "quiet"}');
    console.log('\n{"event": "ready", "http": "http://127.0.0.1:1"}\n');
    return new Response('contained');
  },
};
