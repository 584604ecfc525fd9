// tries: values that are hard to show
// contained: any
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const ring = {};
    ring.ring = ring;
    const trap = new Proxy({}, { get() { throw new Error('trap'); }, ownKeys() { throw new Error('trap'); } });
    console.log(ring, trap, Symbol('s'), 10n ** 5000n, new Map([[ring, trap]]));
    console.table([ring, trap]);
    console.dir({ get x() { throw new Error('get'); } });
    console.trace('%s %d %o %O %c %%', trap, trap);
    return new Response('contained');
  },
};
