// tries: the same with every request, as fast as they come
// contained: crashed
// ask: few
import { abortIsolate } from 'cloudflare:workers';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    abortIsolate('again');
  },
};
