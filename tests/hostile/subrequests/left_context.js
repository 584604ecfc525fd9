// tries: to ask others without end, from an async context of before its first request
// contained: served
// settings: {"limits": {"subrequests": 5}, "compatibility_flags": ["nodejs_compat"]}
import { AsyncLocalStorage } from 'node:async_hooks';

const away = AsyncLocalStorage.snapshot();

async function made(tries) {
  let count = 0;
  for (let at = 0; at < tries; at += 1) {
    try {
      await away(() => fetch('http://169.254.169.254/'));
    } catch (error) {
      if (error.message.startsWith('Too many subrequests')) return count;
    }
    count += 1;
  }
  return count;
}

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const count = await made(50);
    return new Response(count <= 10 ? `contained after ${count}` : `reached ${count}`);
  },
};
