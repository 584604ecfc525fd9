// tries: to leave something on the machine
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as fs from 'node:fs';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  root: () => { fs.writeFileSync('/kythera-was-here', 'x'); return 'written to /'; },
  home: () => { fs.mkdirSync('/etc/kythera-was-here'); return 'made in /etc'; },
  device: () => { fs.writeFileSync('/dev/shm/kythera-was-here', 'x'); return 'written to /dev/shm'; },
  link: () => { fs.symlinkSync('/etc', '/bundle/etc'); return fs.readFileSync('/bundle/etc/passwd'); },
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
