// tries: to signal its own process, its parent and all
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import process from 'node:process';

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const reached = [];
    for (const pid of [process.pid, process.ppid, 1, 0, -1]) {
      try {
        process.kill(pid, pid === process.pid ? 'SIGKILL' : 0);
      } catch (error) {
        reached.push(error.name);
      }
    }
    await scheduler.wait(50);
    return new Response('contained');
  },
};
