// tries: a loop in the event that its own time-out fires
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const signal = AbortSignal.timeout(5);
    signal.addEventListener('abort', () => { for (;;); });
    await new Promise(() => {});
  },
};
