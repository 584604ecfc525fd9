// The way into an object cell: finds the object that a stateless cell asks for, and calls it. Before
// the cell is replaced it lets nobody in any more, and tells how many are inside. It takes the traces of
// all that happens in objects, and hands them on while somebody watches: a cell is not replaced for a
// tail, which would cut connections.
import { WorkerEntrypoint } from 'cloudflare:workers';
import { handed } from './handed.js';
import traces from './tail.js';

const HEADER = 'x-kythera-object';
const LEAVING = 'kythera: the object cell is being replaced';
let leaving = false;
let watched = false;
let inside = 0;
let served = 0;
let counting;

async function enter(work) {
  if (leaving) {
    throw new Error(LEAVING);
  }
  inside += 1;
  try {
    return await work();
  } finally {
    inside -= 1;
    served += 1;
  }
}

function find(env, where) {
  const namespace = env[where.namespace];
  if (namespace === undefined) {
    throw new Error('The version of this Worker that its Durable Objects run has no such class.');
  }
  const named = where.name !== undefined;
  return namespace.get(named ? namespace.idFromName(where.name) : namespace.idFromString(where.id));
}

export default class extends WorkerEntrypoint {
  fetch(request) {
    const where = JSON.parse(decodeURIComponent(request.headers.get(HEADER)));
    const handed = new Request(request);
    handed.headers.delete(HEADER);
    return enter(() => find(this.env, where).fetch(handed));
  }

  call(where, method, given) {
    return enter(async () => handed(await find(this.env, where)[method](...given)));
  }

  property(where, name) {
    return enter(async () => handed(await find(this.env, where)[name]));
  }

  workflow(name, method, given) {
    return enter(() => {
      if (this.env.WORKFLOWS === undefined) {
        throw new Error(`The version of this Worker that is deployed has no Workflow ${JSON.stringify(name)}.`);
      }
      return this.env.WORKFLOWS.call(name, method, given);
    });
  }
}

export const Tail = {
  tail(events, env) {
    return watched ? traces.tail(events, env) : undefined;
  },
};

const ORDERS = {
  '/leave': () => { leaving = true; },
  '/watch': () => { watched = true; },
  '/unwatch': () => { watched = false; },
};

export class Watch extends WorkerEntrypoint {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname.startsWith('/workflows/')) {
      return asked(this.env.WORKFLOWS, pathname, await request.json());
    }
    ORDERS[pathname]?.();
    const told = await this.env.WORKFLOWS?.watch(leaving);
    const all = inside + (told?.inside ?? 0);
    counting ??= crypto.randomUUID();
    const counts = { served, workflows: told?.counts ?? {} };
    return Response.json({ process: counting, inside: all, leaving, watched, ...counts });
  }
}

// What the API asks of a Workflow: `/workflows/<id>/<what>`.
async function asked(workflows, pathname, given) {
  const [, , workflow, what] = pathname.split('/');
  try {
    const answer = await enter(() => workflows.ask(workflow, what, given));
    return new Response(answer, { headers: { 'content-type': 'application/json' } });
  } catch ({ name, message }) {
    return Response.json({ name, message }, { status: message === LEAVING ? 503 : 409 });
  }
}
