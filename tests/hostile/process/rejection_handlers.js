// tries: a rejection whose handler rejects
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    globalThis.addEventListener('unhandledrejection', () => { Promise.reject(new Error('again')); });
    Promise.reject(new Error('first'));
    await scheduler.wait(100);
    return new Response('contained');
  },
};
