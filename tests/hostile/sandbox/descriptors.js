// tries: to use descriptors that it was not given
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as fs from 'node:fs';
import { Buffer } from 'node:buffer';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  stdin: () => fs.readSync(0, Buffer.alloc(16)),
  control: () => fs.writeSync(3, 'x'),
  listening: () => fs.fstatSync(4).size >= 0 && 'a fourth descriptor',
  many: () => {
    for (let i = 5; i < 64; i += 1) {
      try {
        return `${i} ${fs.readSync(i, Buffer.alloc(16))}`;
      } catch {
        continue;
      }
    }
  },
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
