// Answers of every shape: status, headers, bodies, none at all.
const SHAPES = {
  '/text': () => new Response('text'),
  '/empty': () => new Response(null, { status: 204 }),
  '/created': () => new Response('made', { status: 201, statusText: 'Created' }),
  '/json': () => Response.json({ a: [1, 'ü', null] }, { headers: { 'x-more': 'yes' } }),
  '/bytes': () => new Response(new Uint8Array([0, 255, 128, 10])),
  '/redirect': () => Response.redirect('https://example.org/there?a=b', 302),
  '/permanent': () => new Response(null, { status: 308, headers: { location: '/elsewhere' } }),
  '/cookies': () => {
    const headers = new Headers();
    headers.append('set-cookie', 'a=1; Path=/');
    headers.append('set-cookie', 'b=2; HttpOnly');
    return new Response('two', { headers });
  },
  '/teapot': () => new Response('short and stout', { status: 418 }),
  '/stream': () => new Response(new ReadableStream({
    start(controller) {
      for (const word of ['one ', 'two ', 'three']) {
        controller.enqueue(new TextEncoder().encode(word));
      }
      controller.close();
    },
  })),
  '/blob': () => new Response(new Blob(['<b>blob</b>'], { type: 'text/html' })),
  '/params': () => new Response(new URLSearchParams({ a: 'ä b', c: '&' })),
};
export default {
  fetch(request) {
    const shape = SHAPES[new URL(request.url).pathname];
    return shape ? shape() : new Response('nothing here', { status: 404 });
  },
};
