// The Cache API: what is kept, what is refused, what varies.
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

export default {
  async fetch(request) {
    const cache = caches.default;
    const key = (path) => new Request(`http://cached.localhost${path}`);
    const kept = (text, headers) => new Response(text, { headers: { 'cache-control': 'max-age=600', ...headers } });
    await cache.put(key('/a'), kept('first', { 'x-own': '1', etag: '"e1"' }));
    const found = await cache.match(key('/a'));
    const named = await caches.open('other');
    const missed = await named.match(key('/a'));
    await named.put(key('/a'), kept('of the other'));
    await cache.put(key('/ranged'), kept('0123456789', { 'content-length': '10' }));
    await cache.put(key('/private'), new Response('x', { headers: { 'cache-control': 'no-store' } }));
    const part = await cache.match(new Request('http://cached.localhost/ranged', { headers: { range: 'bytes=2-4' } }));
    const fresh = await cache.match(new Request('http://cached.localhost/a', { headers: { 'if-none-match': '"e1"' } }));
    return Response.json({
      found: [await found.text(), found.status, found.headers.get('x-own')],
      missed: missed === undefined, other: await (await named.match(key('/a'))).text(),
      part: part && [part.status, await part.text(), part.headers.get('content-range')],
      fresh: fresh && fresh.status,
      refused: (await cache.match(key('/private'))) === undefined,
      post: await tried(() => cache.put(new Request('http://cached.localhost/p', { method: 'POST' }), kept('x'))),
      partial: await tried(() => cache.put(key('/q'), new Response('x', { status: 206 }))),
      vary: await tried(() => cache.put(key('/v'), kept('x', { vary: '*' }))),
      deleted: [await cache.delete(key('/a')), await cache.delete(key('/a'))],
    });
  },
};
