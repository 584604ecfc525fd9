// tries: to read about processes under /proc
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as fs from 'node:fs';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  environment: () => fs.readFileSync('/proc/self/environ', 'utf8'),
  memory: () => fs.openSync('/proc/self/mem', 'r+') >= 0 && 'opened',
  maps: () => fs.readFileSync('/proc/self/maps', 'utf8'),
  first: () => fs.readFileSync('/proc/1/cmdline', 'utf8'),
  descriptors: () => fs.readdirSync('/proc/self/fd').join(),
  root: () => fs.readdirSync('/proc/self/root').join(),
  mounts: () => fs.readFileSync('/proc/mounts', 'utf8'),
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
