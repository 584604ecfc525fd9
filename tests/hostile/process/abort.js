// tries: process.abort
// contained: any
// settings: {"compatibility_flags": ["nodejs_compat"]}
import process from 'node:process';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    process.abort();
    return new Response('contained');
  },
};
