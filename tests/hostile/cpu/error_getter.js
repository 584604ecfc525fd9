// tries: a loop in what the platform reads of its exception
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const error = new Error('odd');
    Object.defineProperty(error, 'stack', { get() { for (;;); } });
    Object.defineProperty(error, 'message', { get() { for (;;); } });
    throw error;
  },
};
