// tries: to list what lies about
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as fs from 'node:fs';

// workerd's own files, which exist within the worker alone.
const OWN = ['bundle', 'tmp', 'dev'];
const DEVICES = ['null', 'zero', 'full', 'random'];

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  root: () => fs.readdirSync('/').filter((name) => !OWN.includes(name)).join(),
  etc: () => fs.readdirSync('/etc').join(),
  proc: () => fs.readdirSync('/proc').join(),
  sys: () => fs.readdirSync('/sys').join(),
  devices: () => fs.readdirSync('/dev').filter((name) => !DEVICES.includes(name)).join(),
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
