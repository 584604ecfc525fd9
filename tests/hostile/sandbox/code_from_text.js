// tries: to make code of text
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as vm from 'node:vm';

const BYTES = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  evaluated: () => eval('1 + 1'),
  constructed: () => new Function('return 1')(),
  asynchronous: () => (async () => {}).constructor('return 1')(),
  compiled: () => WebAssembly.compile(BYTES).then(() => 'compiled'),
  module: () => new WebAssembly.Module(BYTES) && 'a module',
  vm: () => vm.runInThisContext('1 + 1'),
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
