import { WorkflowEntrypoint } from 'cloudflare:workers';
import { NonRetryableError } from 'cloudflare:workflows';

const quick = (limit) => ({ retries: { limit, delay: 10, backoff: 'constant' }, timeout: '1 minute' });
const caught = async (work) => {
  try {
    return await work();
  } catch (error) {
    return String(error.message);
  }
};

const KINDS = {
  async values(event, step) {
    const date = await step.do('date', async () => new Date(0));
    const map = await step.do('map', async () => new Map([['a', new Set([1])]]));
    const bytes = await step.do('bytes', async () => new Uint8Array([1, 2, 3]));
    const nothing = await step.do('nothing', async () => undefined);
    const twice = [await step.do('twice', async () => 1), await step.do('twice', async () => 2)];
    return {
      date: date.toISOString(), map: [...map.get('a')], bytes: [...bytes], nothing: nothing === undefined, twice,
      event: [event.payload, event.instanceId, event.timestamp instanceof Date],
    };
  },
  async retried(event, step) {
    return step.do('retried', quick(3), async () => {
      KINDS.tries = (KINDS.tries ?? 0) + 1;
      if (KINDS.tries < 3) {
        throw new TypeError(`try ${KINDS.tries}`);
      }
      return KINDS.tries;
    });
  },
  async spent(event, step) {
    return step.do('spent', quick(1), async () => { throw new Error('spent'); });
  },
  async forgiven(event, step) {
    return caught(() => step.do('forgiven', quick(0), async () => { throw new Error('forgiven'); }));
  },
  async fatal(event, step) {
    return step.do('fatal', quick(5), async () => { throw new NonRetryableError('for good'); });
  },
  async thrown() {
    throw new Error('outside of any step');
  },
  async sleeps(event, step) {
    await step.sleep('by number', 50);
    await step.sleep('by words', '1 second');
    await step.sleepUntil('until', new Date(Date.now() + 50));
    return 'slept';
  },
  async past(event, step) {
    return caught(() => step.sleepUntil('past', new Date(0)));
  },
  async timed(event, step) {
    return caught(() => step.do('timed', { ...quick(0), timeout: 50 }, () => scheduler.wait(5000)));
  },
  async unnamed(event, step) {
    return caught(() => step.do('x'.repeat(257), async () => 1));
  },
  async together(event, step) {
    return Promise.all(['a', 'b', 'c'].map((name) => step.do(name, async () => name)));
  },
};

export class Flow extends WorkflowEntrypoint {
  run(event, step) {
    return KINDS[event.payload.kind](event, step);
  }
}

export default {
  async fetch(request, env) {
    const kind = new URL(request.url).pathname.slice(1);
    const instance = await env.FLOW.create({ id: `one-${kind}`, params: { kind } });
    for (let look = 0; look < 400; look += 1) {
      const { status, output, error } = await instance.status();
      if (['complete', 'errored', 'terminated'].includes(status)) {
        return Response.json({ id: instance.id, status, output, error });
      }
      await scheduler.wait(20);
    }
    return new Response('it does not end', { status: 500 });
  },
};
