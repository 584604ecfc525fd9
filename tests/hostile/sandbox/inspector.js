// tries: to debug its own process, or others
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as inspector from 'node:inspector';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  session: () => { new inspector.Session().connect(); return 'a session'; },
  open: () => { inspector.open(9229, '127.0.0.1'); return inspector.url(); },
  gc: () => typeof globalThis.gc === 'function' && 'gc',
  natives: () => typeof globalThis['%DebugPrint'] === 'function' && 'natives',
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
