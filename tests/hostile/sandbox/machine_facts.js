// tries: to learn on what machine it runs
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as os from 'node:os';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  host: () => (['', 'localhost', 'workerd', 'cloudflare'].includes(os.hostname()) ? '' : os.hostname()),
  addresses: () => Object.values(os.networkInterfaces()).flat().map((one) => one.address).join(),
  user: () => (os.userInfo().homedir.length > 1 ? os.userInfo().homedir : ''),
  processors: () => os.cpus().map((one) => one.model).join(),
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
