// tries: timers of no time that set each other: no turn is long, and none is the last
// contained: served
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const storm = () => { setTimeout(storm, 0); setTimeout(() => {}, 0); };
    storm();
    await scheduler.wait(1000);
    return new Response('contained');
  },
};
