import { WorkflowEntrypoint } from 'cloudflare:workers';

export class Flow extends WorkflowEntrypoint {
  async run(event, step) {
    const first = await step.do('first', async () => event.payload.name ?? 'nobody');
    const { payload, type } = await step.waitForEvent('wait', { type: 'go', timeout: '1 hour' });
    return { first, payload, type };
  }
}

const named = async (work) => {
  try {
    return await work();
  } catch (error) {
    return { error: String(error.message) };
  }
};

// `wrangler dev` says of one that waits for an event that it runs.
const BEGUN = ['running', 'waiting'];

async function until(instance, ...wanted) {
  for (let look = 0; look < 400; look += 1) {
    const { status, output } = await instance.status();
    if (wanted.includes(status)) {
      return { status, output };
    }
    await scheduler.wait(20);
  }
  throw new Error(`never ${wanted}`);
}

const CALLS = {
  async event(env) {
    const instance = await env.FLOW.create({ id: 'event', params: { name: 'anna' } });
    await until(instance, ...BEGUN);
    await instance.sendEvent({ type: 'other', payload: 0 });
    await instance.sendEvent({ type: 'go', payload: { at: [1, null, 'x'] } });
    return until(instance, 'complete');
  },
  async early(env) {
    const instance = await env.FLOW.create({ id: 'early' });
    await instance.sendEvent({ type: 'go', payload: 'early' });
    return until(instance, 'complete');
  },
  async paused(env) {
    const instance = await env.FLOW.create({ id: 'paused' });
    await until(instance, ...BEGUN);
    await instance.pause();
    const paused = await until(instance, 'paused');
    await instance.sendEvent({ type: 'go' });
    await instance.resume();
    return [paused, await until(instance, 'complete')];
  },
  async ended(env) {
    const instance = await env.FLOW.create({ id: 'ended' });
    await until(instance, ...BEGUN);
    await instance.terminate();
    const ended = await until(instance, 'terminated');
    await instance.restart();
    await until(instance, ...BEGUN);
    await instance.sendEvent({ type: 'go', payload: 'again' });
    return [ended, await until(instance, 'complete')];
  },
  async batch(env) {
    const made = await env.FLOW.createBatch([{ id: 'b1' }, { id: 'b2', params: { name: 'b' } }, { id: 'b1' }]);
    return made.map(({ id }) => id);
  },
  empty: (env) => named(() => env.FLOW.createBatch([])),
  absent: (env) => named(() => env.FLOW.get('nobody')),
  there: (env) => named(() => env.FLOW.create({ id: 'event' })),
  unnamed: (env) => named(() => env.FLOW.create({ id: 'no id' })),
  long: (env) => named(() => env.FLOW.create({ id: 'x'.repeat(101) })),
  over: async (env) => named(async () => (await env.FLOW.get('event')).terminate()),
  awake: async (env) => named(async () => (await env.FLOW.get('event')).resume()),
};

export default {
  async fetch(request, env) {
    return Response.json((await CALLS[new URL(request.url).pathname.slice(1)](env)) ?? null);
  },
};
