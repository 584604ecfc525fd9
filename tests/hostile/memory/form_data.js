// tries: a form with very large files
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    const form = new FormData();
    for (let i = 0; i < 64; i += 1) {
      form.append(`f${i}`, new Blob([new Uint8Array(8 << 20).fill(1)]));
      kept.push(i);
    }
    await new Response(form).arrayBuffer();
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
