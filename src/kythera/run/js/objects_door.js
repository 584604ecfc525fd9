// The way into an object cell: finds the object that a stateless cell asks for, and calls it. Before
// the cell is replaced it lets nobody in any more, and tells how many are inside.
import { WorkerEntrypoint } from 'cloudflare:workers';

const HEADER = 'x-kythera-object';
const LEAVING = 'kythera: the object cell is being replaced';
let leaving = false;
let inside = 0;
let served = 0;

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
    return enter(() => find(this.env, where)[method](...given));
  }

  property(where, name) {
    return enter(() => find(this.env, where)[name]);
  }
}

export class Watch extends WorkerEntrypoint {
  fetch(request) {
    leaving ||= new URL(request.url).pathname === '/leave';
    return Response.json({ inside, served, leaving });
  }
}
