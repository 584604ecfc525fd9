// tries: to end its own process by the engine's own door
// contained: crashed
import { abortIsolate } from 'cloudflare:workers';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    abortIsolate('enough');
    return new Response('reached: the process goes on');
  },
};
