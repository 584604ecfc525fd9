// tries: to get one more count for each of its calls, by calling the platform's own handler
// contained: served
// settings: {"limits": {"subrequests": 5}, "compatibility_flags": ["nodejs_compat"]}
import { AsyncLocalStorage } from 'node:async_hooks';

const away = AsyncLocalStorage.snapshot();
WeakSet.prototype.has = () => false;
WeakRef.prototype.deref = () => undefined;
AsyncLocalStorage.prototype.getStore = () => ({ spent: -1e9 });
Object.defineProperty(Object.prototype, 'spent', { get: () => -1e9, set() {} });

async function once() {
  try {
    await fetch('http://169.254.169.254/');
  } catch (error) {
    return error.message.startsWith('Too many subrequests') ? 0 : 1;
  }
  return 1;
}

export default {
  async fetch(request, env, ctx) {
    if (request.method === 'GET') return new Response('calm');
    if (request.url.includes('inner')) return new Response(String(await once()));
    const { default: main } = await import('./kythera-around.js');
    let count = 0;
    for (let at = 0; at < 50; at += 1) {
      const inner = new Request('http://inner.example/', { method: 'POST' });
      const others = [ctx, new Proxy(ctx, {}), Object.create(ctx), { waitUntil: ctx.waitUntil }];
      const found = await away(() => main.fetch(inner, env, others[at % 4]));
      count += Number(await found.text());
    }
    return new Response(count <= 10 ? `contained after ${count}` : `reached ${count}`);
  },
};
