"""Workers with Workflows that tests deploy, and how they are asked."""

from typing import Any

from tests.platforms import RunningPlatform
from tests.processes import wait_until

FLOWS = """
import { WorkerEntrypoint, WorkflowEntrypoint } from 'cloudflare:workers';
import { NonRetryableError } from 'cloudflare:workflows';
const quick = (limit) => ({ retries: { limit, delay: 20, backoff: 'constant' } });
const KINDS = {
  async all(event, step) {
    const first = await step.do('first', async ({ attempt }) => ({ at: new Date(0), attempt }));
    await step.sleep('nap', '1 second');
    await step.sleepUntil('until', Date.now() + 300);
    const second = await step.do('second', quick(3), async ({ attempt }) => {
      if (attempt < 3) { throw new Error(`not yet ${attempt}`); }
      return attempt;
    });
    const { payload } = await step.waitForEvent('approval', { type: 'approved', timeout: '1 hour' });
    return { first, second, approved: payload, event: [event.payload, event.instanceId, event.workflowName] };
  },
  async fatal(event, step) {
    return step.do('fatal', quick(5), async () => { throw new NonRetryableError('for good'); });
  },
  async slow(event, step) {
    return step.do('slow', { ...quick(1), timeout: 200 }, () => scheduler.wait(60_000));
  },
  async large(event, step) {
    return step.do('large', quick(0), async () => 'x'.repeat(1_048_577));
  },
  async expired(event, step) {
    try {
      await step.waitForEvent('never', { type: 'never', timeout: 200 });
    } catch (error) {
      return error.name;
    }
  },
  async many(event, step) {
    let at = 0;
    for (; at < event.payload.steps; at += 1) {
      await step.do('step', quick(0), () => scheduler.wait(event.payload.each ?? 0));
    }
    return at;
  },
  async forever(event, step) { await step.sleep('for ever', '400 days'); },
  async patient(event, step) {
    const began = await step.do('begin', async () => '%version%');
    const { payload } = await step.waitForEvent('word', { type: 'word', timeout: '1 day' });
    return [began, '%version%', payload];
  },
  async long(event, step) {
    const began = await step.do('begin', async () => '%version%');
    await step.do('work', quick(5), () => scheduler.wait(event.payload.ms ?? 1500));
    await step.sleep('rest', event.payload.rest ?? 1);
    return [began, '%version%'];
  },
};
export class Flow extends WorkflowEntrypoint {
  run(event, step) { return KINDS[event.payload.kind ?? 'all'](event, step); }
}
const told = async (instance) => ({ id: instance.id, ...await instance.status() });
const CALLS = {
  create: async (env, options) => told(await env.FLOW.create(options)),
  batch: async (env, options) => (await env.FLOW.createBatch(options)).map(({ id }) => id),
  get: async (env, { id }) => told(await env.FLOW.get(id)),
  send: async (env, { id, ...event }) => (await env.FLOW.get(id)).sendEvent(event),
  pause: async (env, { id }) => (await env.FLOW.get(id)).pause(),
  resume: async (env, { id }) => (await env.FLOW.get(id)).resume(),
  restart: async (env, { id, ...more }) => (await env.FLOW.get(id)).restart(more),
  terminate: async (env, { id }) => (await env.FLOW.get(id)).terminate(),
  remove: async (env, { ids }) => env.FLOW.deleteBatch(ids),
  follow: async (env, { id }) => {
    using events = await (await env.FLOW.get(id)).subscribe();
    const told = [];
    for (;;) {
      const { done, value } = await events.next();
      if (value) { told.push(value.type); }
      if (done || value?.type === 'workflow_completed') { return told; }
    }
  },
  gone: async (env, { id }) => (await env.FLOW.get(id)).delete(),
};
export default {
  async fetch(request, env) {
    const call = new URL(request.url).pathname.slice(1);
    if (call === 'version') { return new Response('%version%'); }
    try {
      return Response.json((await CALLS[call](env, await request.json())) ?? null);
    } catch ({ name, message }) {
      return Response.json({ name, message });
    }
  },
};
"""


def flows(version: str = "1") -> str:
    """Return the worker's code."""
    return FLOWS.replace("%version%", version)


def deploy_flows(platform: RunningPlatform, worker: str, version: str = "1") -> None:
    """Deploy it as wrangler does, with a Workflow of the worker's name."""
    own = {"name": "FLOW", "type": "workflow", "workflow_name": worker, "class_name": "Flow"}
    platform.upload(worker, flows(version), bindings=[own], compatibility_date="2026-06-01")
    platform.wait_for(worker, version, "/version")


def called(platform: RunningPlatform, worker: str, call: str, **options: Any) -> Any:
    """Return what the worker's binding answers."""
    return platform.get(worker, f"/{call}", method="POST", json=options).json()


def state_of(platform: RunningPlatform, worker: str, instance: str) -> str:
    """Return the state that an instance is in."""
    found: str = called(platform, worker, "get", id=instance).get("status", "")
    return found


def ended(platform: RunningPlatform, worker: str, instance: str, deadline_s: float = 15) -> Any:
    """Wait until an instance has ended, and return what its binding says of it."""

    def has_ended() -> bool:
        return state_of(platform, worker, instance) in ("complete", "errored", "terminated")

    wait_until(has_ended, f"{instance} ends", deadline_s=deadline_s)
    return called(platform, worker, "get", id=instance)
