// Stands behind a worker's bindings to dispatch namespaces, in the worker's process but apart from its
// code. It makes the mark of the worker that is meant from the namespace's key, so that the machine's
// inner door leads to any worker of that namespace and of no other; and tells the worker's process to
// whose outbound worker its own requests go. See decisions/0024.
import { WorkerEntrypoint } from 'cloudflare:workers';

const ASKED = 'x-kythera-dispatch';
const MARK = 'x-kythera-service';
const TOLD = 'x-kythera-told';
const HOPS = 'cf-ew-via';
const HOPS_MAX = 16;
const MARK_DIGITS = 32;
const TOO_DEEP = 'Subrequest depth limit exceeded. This request recursed through Workers too many times';
const text = new TextEncoder();
const keys = new Map();
const inside = new Map();

async function markOf(key, name) {
  if (!keys.has(key)) {
    const how = { name: 'HMAC', hash: 'SHA-256' };
    keys.set(key, await crypto.subtle.importKey('raw', text.encode(key), how, false, ['sign']));
  }
  const raw = await crypto.subtle.sign('HMAC', keys.get(key), text.encode(`worker/${name}`));
  return new Uint8Array(raw).toHex().slice(0, MARK_DIGITS);
}

function enter(id, name, most) {
  const now = (inside.get(id) ?? 0) + 1;
  if (now > most) {
    throw new Error(`${TOO_DEEP}, or this worker has ${most} requests to ${JSON.stringify(name)} under way at the same time.`);
  }
  inside.set(id, now);
}

function leave(id) {
  const now = inside.get(id) - 1;
  if (now === 0) {
    inside.delete(id);
  } else {
    inside.set(id, now);
  }
}

// What is told is ASCII already: the binding has escaped what was not.
function told(headers, { outbound }, params, most) {
  headers.delete(TOLD);
  if (outbound === undefined) {
    return;
  }
  const said = JSON.stringify({ worker: outbound, params }).replace(/[\u007f-\uffff]/g, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
  if (said.length > most) {
    throw new RangeError(`The parameters for the outbound Worker take ${said.length} bytes; ${most} are allowed (dispatch_told_bytes_max).`);
  }
  headers.set(TOLD, said);
}

async function failed(response, name) {
  await response.body?.cancel();
  return response.headers.has('x-kythera-gone') ? new Error('Worker not found.') :
    new Error(`The worker ${JSON.stringify(name)} ended this request with an exception; its own log tells which.`);
}

export default class Dispatching extends WorkerEntrypoint {
  async fetch(request) {
    const { namespace, key } = this.ctx.props;
    const sent = new Request(request);
    const { name, params } = JSON.parse(sent.headers.get(ASKED));
    const hops = (Number.parseInt(sent.headers.get(HOPS), 10) || 0) + 1;
    if (hops > HOPS_MAX) {
      throw new Error(`${TOO_DEEP}.`);
    }
    sent.headers.delete(ASKED);
    sent.headers.delete('x-kythera-lanes');
    told(sent.headers, this.ctx.props, params, this.env.TOLD_MAX);
    sent.headers.set(HOPS, String(hops));
    sent.headers.set(MARK, await markOf(key, name));
    const id = `${namespace}/${name}`;
    enter(id, name, this.env.CALLS_MAX);
    try {
      const response = await this.env.DOOR.fetch(sent);
      const ours = response.headers.has('x-kythera-gone') || response.headers.has('x-kythera-threw');
      if (ours) {
        throw await failed(response, name);
      }
      return response;
    } finally {
      leave(id);
    }
  }
}
