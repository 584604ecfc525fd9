// tries: to read the machine's files
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as fs from 'node:fs';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  passwords: () => fs.readFileSync('/etc/passwd', 'utf8'),
  hosts: () => fs.readFileSync('/etc/hosts', 'utf8'),
  later: () => fs.promises.readFile('/etc/hostname', 'utf8'),
  above: () => fs.readFileSync('/bundle/../../etc/passwd', 'utf8'),
  url: () => fs.readFileSync(new URL('file:///etc/passwd'), 'utf8'),
  fetched: async () => (await fetch('file:///etc/passwd')).text(),
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
