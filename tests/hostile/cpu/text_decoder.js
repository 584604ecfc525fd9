// tries: huge buffers decoded as the slowest of encodings
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const bytes = new Uint8Array(8 << 20).fill(0x81);
    for (;;) new TextDecoder('gb18030').decode(bytes);
  },
};
