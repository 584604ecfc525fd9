// tries: clones of a deep object
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let deep = {};
    for (let i = 0; i < 500; i += 1) deep = { deep, list: Array(50).fill(i) };
    for (;;) structuredClone(deep);
  },
};
