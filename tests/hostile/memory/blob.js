// tries: blobs made of blobs
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    const piece = new Uint8Array(8 << 20).fill(1);
    for (let i = 0; i < 64; i += 1) kept.push(new Blob([piece, String(i)]));
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
