// Tried: to have workerd write the time down for later: a worker that calls its own `scheduled`
// handler twice in one turn, and compares the times that arrive.
// Must be seen: both times are the same; a given time arrives as given.
import { WorkerEntrypoint } from 'cloudflare:workers';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const arrived = [];

export class Other extends WorkerEntrypoint {
  scheduled({ scheduledTime }) { arrived.push(Number(scheduledTime)); }
}

export default {
  async fetch(request, env, ctx) {
    const other = ctx.exports.Other;
    const first = other.scheduled();
    burn();
    const second = other.scheduled({ cron: '* * * * *' });
    burn();
    const third = other.scheduled({ scheduledTime: new Date(5_000) });
    await Promise.all([first, second, third]);
    const [before, after, given] = arrived;
    return Response.json({ before, after, itself: [given === 5_000] });
  },
};
