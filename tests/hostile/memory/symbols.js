// tries: symbols in the registry, which nobody may collect
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (let i = 0; ; i += 1) kept.push(Symbol.for(`${i}${'s'.repeat(1000)}`));
  },
};
