// tries: a loop in WebAssembly
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
import endless from './loop.wasm';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    new WebAssembly.Instance(endless).exports.loop();
  },
};
