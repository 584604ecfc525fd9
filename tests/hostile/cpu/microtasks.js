// tries: microtasks that queue the next one
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const again = () => queueMicrotask(again);
    again();
    await new Promise(() => {});
  },
};
