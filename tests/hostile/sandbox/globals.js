// tries: to find something in the global scope that leads out
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
const LEADING_OUT = ['require', 'module', 'Deno', 'Bun', 'ActiveXObject', 'print', 'load', 'quit', 'd8'];

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  unexpected: () => LEADING_OUT.filter((name) => name in globalThis).join(),
  deno: () => globalThis.Deno?.version,
  bun: () => globalThis.Bun?.version,
  caller: () => (function inner() { return inner.caller; })(),
  constructor: () => globalThis.constructor.constructor('return process')().mainModule,
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
