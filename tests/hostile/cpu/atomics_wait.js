// tries: a wait that burns nothing and holds the thread
// contained: error
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const cell = new Int32Array(new SharedArrayBuffer(4));
    Atomics.wait(cell, 0, 0, 3000);
    return new Response('reached: Atomics.wait held the thread');
  },
};
