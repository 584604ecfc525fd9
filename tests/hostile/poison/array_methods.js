// tries: methods of arrays and strings
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
for (const kind of [Array, String, Set, Map, Object, Reflect]) {
  const target = kind.prototype ?? kind;
  for (const name of ['filter', 'join', 'forEach', 'map', 'slice', 'includes', 'split', 'add', 'delete']) {
    if (name in target) target[name] = () => { for (;;); };
  }
}

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    throw new Error('after the poison');
  },
};
