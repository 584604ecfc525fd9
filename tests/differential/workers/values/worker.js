// What the language and the platform's own classes do.
function tried(what) {
  try {
    return what();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}
export default {
  async fetch(request, env, ctx) {
    const copied = structuredClone(new Map([['a', new Date(0)], ['b', [1n, /x/gi]]]));
    const pattern = new URLPattern({ pathname: '/books/:id(\\d+)' });
    const controller = new AbortController();
    controller.abort(new Error('no more'));
    const order = [];
    await Promise.all([
      scheduler.wait(2).then(() => order.push('wait')),
      new Promise((done) => setTimeout(done, 1)).then(() => order.push('timer')),
      Promise.resolve().then(() => order.push('microtask')),
    ]);
    return Response.json({
      cloned: [...copied.keys(), copied.get('a').getTime(), String(copied.get('b')[0])],
      match: pattern.exec('https://example.org/books/42').pathname.groups.id,
      nomatch: pattern.test('https://example.org/books/x'),
      reason: controller.signal.reason.message,
      order,
      frozen: Date.now() === Date.now(),
      caches: typeof caches.default.match,
      self: typeof self.addEventListener,
      eval: tried(() => eval('1 + 1')),
      function: tried(() => new Function('return 1')()),
      wasm: tried(() => new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])) && 'made'),
      env: Object.keys(env),
      ctx: Object.getOwnPropertyNames(Object.getPrototypeOf(ctx)).sort(),
      agent: navigator.userAgent,
      event: tried(() => { const e = new Event('x'); new EventTarget().dispatchEvent(e); return e.type; }),
      grouped: Object.groupBy([1, 2, 3], (n) => (n % 2 ? 'odd' : 'even')),
      url: new URL('http://ÜBER.example:80/ä?ö#ü').href,
      invalid: tried(() => new URL('nowhere').href),
      header: tried(() => new Headers({ 'a b': 'c' })),
      body: tried(() => new Request('http://a/', { body: 'x' })),
      status: tried(() => new Response('', { status: 99 })),
    });
  },
};
