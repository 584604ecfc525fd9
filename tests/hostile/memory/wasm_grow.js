// tries: WebAssembly's memory, grown page by page
// contained: boundedMemory
import memory from './memory.wasm';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = new WebAssembly.Instance(memory).exports.memory;
    for (let i = 0; i < 64; i += 1) {
      kept.grow(128);
      new Uint8Array(kept.buffer).fill(1, i * (8 << 20));
    }
    return new Response(`reached: 512 MiB ${kept.length}`);
  },
};
