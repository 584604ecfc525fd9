// Streams that are piped, cut, teed, read byte by byte, aborted, and ended by an error.
const encode = (text) => new TextEncoder().encode(text);
function source(...words) {
  return new ReadableStream({
    pull(controller) {
      const word = words.shift();
      word === undefined ? controller.close() : controller.enqueue(encode(word));
    },
  });
}
const UPPER = () => new TransformStream({
  transform(chunk, controller) {
    controller.enqueue(encode(new TextDecoder().decode(chunk).toUpperCase()));
  },
});
export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === '/pipe') {
      return new Response(source('a', 'b', 'c').pipeThrough(UPPER()));
    }
    if (pathname === '/echo') {
      return new Response(request.body);
    }
    if (pathname === '/identity') {
      const { readable, writable } = new IdentityTransformStream();
      const writer = writable.getWriter();
      writer.write(encode('through')).then(() => writer.close());
      return new Response(readable);
    }
    if (pathname === '/fixed') {
      const { readable, writable } = new FixedLengthStream(7);
      const writer = writable.getWriter();
      writer.write(encode('seven!!')).then(() => writer.close());
      return new Response(readable);
    }
    if (pathname === '/tee') {
      const [left, right] = source('x', 'y').tee();
      return Response.json([await new Response(left).text(), await new Response(right).text()]);
    }
    if (pathname === '/byob') {
      const reader = new Response('0123456789').body.getReader({ mode: 'byob' });
      const { value } = await reader.read(new Uint8Array(4));
      return new Response(value);
    }
    if (pathname === '/lines') {
      const found = [];
      for await (const chunk of source('one', 'two').pipeThrough(new TextDecoderStream())) {
        found.push(chunk);
      }
      return Response.json(found);
    }
    const failing = new ReadableStream({ start(controller) { controller.error(new RangeError('cut')); } });
    try {
      await new Response(failing).text();
    } catch (error) {
      return Response.json({ name: error.name, message: error.message });
    }
    return new Response('unreached');
  },
};
