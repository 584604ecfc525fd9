// tries: to read what the platform was started with
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import process from 'node:process';

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  path: () => process.env.PATH,
  home: () => process.env.HOME,
  all: () => Object.keys(process.env).join(),
  arguments: () => process.argv.slice(2).join() || process.execArgv.join(),
  title: () => (/workerd|kythera|\//.test(process.title) && process.title !== 'workerd' ? process.title : ''),
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
