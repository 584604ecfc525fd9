// tries: the same after its answer
// contained: crashed
// answered: maybe
import { abortIsolate } from 'cloudflare:workers';

export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    ctx.waitUntil(scheduler.wait(20).then(() => abortIsolate('enough')));
    return new Response('answered');
  },
};
