// tries: to throw while things are let go
// contained: error
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const held = { [Symbol.dispose]() { throw new Error('dispose'); } };
    globalThis.registry = new FinalizationRegistry(() => { throw new Error('finalised'); });
    for (let i = 0; i < 1e4; i += 1) globalThis.registry.register({ i }, i);
    held[Symbol.dispose]();
  },
};
