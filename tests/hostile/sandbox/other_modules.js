// tries: what else node has: repl, sqlite, wasi, module hooks
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  sqlite: async () => new (await import('node:sqlite')).DatabaseSync('x.db').location?.(),
  wasi: async () => new (await import('node:wasi')).WASI({ version: 'preview1', preopens: { '/': '/' } }) && 'wasi',
  require: async () => (await import('node:module')).createRequire('/')('/etc/passwd'),
  hooks: async () => (await import('node:module')).register('data:text/javascript,') && 'hooks',
  repl: async () => (await import('node:repl')).start() && 'repl',
};

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const reached = [];
    for (const [name, open] of Object.entries(DOORS)) {
      try {
        const found = await open();
        if (found) reached.push(`${name}: ${String(found).slice(0, 200)}`);
      } catch {
        continue;
      }
    }
    return new Response(reached.length === 0 ? 'contained' : `reached: ${reached.join('; ')}`);
  },
};
