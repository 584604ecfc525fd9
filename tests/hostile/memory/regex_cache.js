// tries: regular expressions, each compiled and kept
// contained: ended
// settings: {"limits": {"cpu_ms": 3000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const kept = [];
    for (let i = 0; ; i += 1) {
      const pattern = new RegExp(`${'(a|b)?'.repeat(200)}${i}`);
      pattern.test('ababab');
      kept.push(pattern);
    }
  },
};
