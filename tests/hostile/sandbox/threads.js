// tries: to multiply
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as threads from 'node:worker_threads';
import cluster from 'node:cluster';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  worker: () => new threads.Worker('for (;;);', { eval: true }) && 'a thread',
  cluster: () => cluster.fork() && 'a process',
  web: () => new Worker('data:text/javascript,for(;;);') && 'a web worker',
  shared: () => new SharedWorker('data:text/javascript,') && 'a shared worker',
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
