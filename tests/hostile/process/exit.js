// tries: process.exit
// contained: any
// settings: {"compatibility_flags": ["nodejs_compat"]}
import process from 'node:process';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    process.exit(3);
    return new Response('contained');
  },
};
