// tries: a few bytes that unfold into very many
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const packer = new CompressionStream('gzip');
    const writer = packer.writable.getWriter();
    const packed = new Response(packer.readable).arrayBuffer();
    for (let i = 0; i < 64; i += 1) await writer.write(new Uint8Array(8 << 20));
    await writer.close();
    const stream = new Response(await packed).body.pipeThrough(new DecompressionStream('gzip'));
    const kept = new Uint8Array(await new Response(stream).arrayBuffer()).fill(1);
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
