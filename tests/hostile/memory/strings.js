// tries: strings, flattened so that each is really there
// contained: exceededMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (let i = 0; ; i += 1) kept.push(`${i}${'ä€'.repeat(1e5)}`.split('').reverse().join(''));
  },
};
