// tries: the back doors of node's process
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import process from 'node:process';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  binding: () => process.binding('spawn_sync') && 'process.binding',
  linked: () => process._linkedBinding('fs') && 'process._linkedBinding',
  library: () => process.dlopen({ exports: {} }, '/lib/x86_64-linux-gnu/libc.so.6') === undefined && 'process.dlopen',
  main: () => process.mainModule?.require('child_process').execSync('id'),
  report: () => process.report.writeReport() && 'process.report',
  signal: () => process.kill(1, 0) === true && !process.kill.toString().includes('native') && '',
  uid: () => { process.setuid(0); return ''; },
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
