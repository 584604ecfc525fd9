// tries: to start programs
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as child from 'node:child_process';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  exec: () => child.execSync('id').toString(),
  spawn: () => child.spawnSync('/bin/sh', ['-c', 'id']).stdout?.toString(),
  file: () => child.execFileSync('/bin/true') && 'ran',
  fork: () => child.fork('worker.js').pid,
  later: () => new Promise((done, fail) => {
    const started = child.spawn('/bin/id');
    started.on('error', fail);
    started.on('exit', () => done('ran'));
  }),
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
