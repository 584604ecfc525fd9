// tries: modules that are not its own
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  file: () => import('file:///etc/passwd').then(() => 'file:'),
  data: () => import('data:text/javascript,export default 1').then(() => 'data:'),
  web: () => import('https://example.org/x.js').then(() => 'https:'),
  internal: () => import('cloudflare-internal:env').then(() => 'cloudflare-internal:'),
  node_internal: () => import('node-internal:internal_fs').then(() => 'node-internal:'),
  unsafe: () => import('workerd:unsafe').then(() => 'workerd:unsafe'),
  prelude: () => import('kythera-prelude.js').then((found) => (Object.keys(found).includes('report') ? 'report' : '')),
  above: () => import('../../../etc/passwd').then(() => 'above'),
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
