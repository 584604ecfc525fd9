// tries: to be called as the platform's own module is
// contained: any
// settings: {"limits": {"cpu_ms": 100}}
import * as prelude from './kythera-prelude.js';

export default {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new Response(`contained ${Object.keys(prelude).join()}`);
  },
};
