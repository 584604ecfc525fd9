// What goes wrong, as far as the worker itself answers.
export default {
  async fetch(request, env, ctx) {
    const { pathname } = new URL(request.url);
    const found = [];
    const note = async (name, what) => {
      try {
        await what();
        found.push([name, 'nothing happened']);
      } catch (error) {
        found.push([name, error.name, error.message]);
      }
    };
    if (pathname === '/wait') {
      ctx.waitUntil(Promise.reject(new Error('later')));
      return new Response('answered before');
    }
    if (pathname === '/nothing') {
      return undefined;
    }
    if (pathname === '/throw') {
      throw new TypeError('thrown');
    }
    if (pathname === '/pass') {
      ctx.passThroughOnException();
      return new Response('no exception');
    }
    await note('body twice', async () => { const r = new Response('a'); await r.text(); await r.text(); });
    await note('bad url', () => fetch('not a url'));
    await note('bad scheme', () => fetch('ftp://example.org/'));
    await note('bad method', () => new Request('http://a/', { method: 'a b' }));
    await note('locked', () => { const r = new Response('a'); r.body.getReader(); return r.text(); });
    await note('immutable', () => request.headers.set('a', 'b'));
    await note('timeout', () => AbortSignal.timeout(1).throwIfAborted() ?? scheduler.wait(5));
    await note('json', () => new Response('{').json());
    await note('null prototype', () => null.property);
    return Response.json(found);
  },
};
