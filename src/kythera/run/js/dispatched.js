// Stands around a worker of a dispatch namespace, in its process but apart from its code: before it,
// for what a dispatcher tells of its outbound worker; and behind it (in the place of outbound.js), for
// what it sends out. What joins a request that comes to those that it causes is a token in a header,
// which the worker's process carries along (context.js) and cannot read: it is encrypted with a key
// of this process. A worker that was dispatched with an outbound worker once sends nothing out without
// such a token. See decisions/0024.
import { WorkerEntrypoint } from 'cloudflare:workers';
import outbound from './outbound.js';

const TOLD = 'x-kythera-told';
const CONTEXT = 'x-kythera-context';
const MARK = 'x-kythera-service';
const HOPS = 'cf-ew-via';
const HOPS_MAX = 16;
const MARK_DIGITS = 32;
const NONCE_BYTES = 12;
const NOT_ASCII = /[\u007f-\uffff]/g;
const text = new TextEncoder();
const state = { guarded: false, sealing: null, marking: null };

function refuse(what, why) {
  console.warn(`outbound ${what} failed: ${why}`);
  return new Error(`Outbound ${what} failed: ${why}.`);
}

function sealingKey() {
  state.sealing ??= crypto.subtle.generateKey({ name: 'AES-GCM', length: 256 }, false, ['encrypt', 'decrypt']);
  return state.sealing;
}

async function sealed(told) {
  const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const how = { name: 'AES-GCM', iv };
  const closed = await crypto.subtle.encrypt(how, await sealingKey(), text.encode(told));
  return iv.toBase64() + new Uint8Array(closed).toBase64();
}

async function opened(token) {
  try {
    const all = Uint8Array.fromBase64(token);
    const how = { name: 'AES-GCM', iv: all.subarray(0, NONCE_BYTES) };
    const open = await crypto.subtle.decrypt(how, await sealingKey(), all.subarray(NONCE_BYTES));
    return JSON.parse(new TextDecoder().decode(open));
  } catch {
    throw refuse('fetch', 'the header x-kythera-context is not for workers to set');
  }
}

async function markOf(key, name) {
  const how = { name: 'HMAC', hash: 'SHA-256' };
  state.marking ??= crypto.subtle.importKey('raw', text.encode(key), how, false, ['sign']);
  const raw = await crypto.subtle.sign('HMAC', await state.marking, text.encode(`worker/${name}`));
  return new Uint8Array(raw).toHex().slice(0, MARK_DIGITS);
}

const LOST = 'this Worker is dispatched with an outbound Worker, and requests outside of a dispatch, WebSockets by their constructor and TCP do not pass through that';

async function viaOutbound(token, request, env) {
  const { worker, params } = await opened(token);
  const sent = new Request(request);
  const hops = (Number.parseInt(sent.headers.get(HOPS), 10) || 0) + 1;
  if (hops > HOPS_MAX) {
    throw refuse('fetch', 'it recursed through Workers too many times');
  }
  sent.headers.delete(CONTEXT);
  sent.headers.delete('x-kythera-lanes');
  sent.headers.set(HOPS, String(hops));
  sent.headers.set(MARK, await markOf(env.OUTBOUND_KEY, worker));
  sent.headers.set(TOLD, JSON.stringify(params).replace(NOT_ASCII, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`));
  const response = await env.DOOR.fetch(sent);
  if (response.headers.has('x-kythera-gone')) {
    await response.body?.cancel();
    throw refuse('fetch', `there is no outbound Worker ${JSON.stringify(worker)}, or nothing of it is deployed`);
  }
  if (response.headers.has('x-kythera-threw')) {
    await response.body?.cancel();
    throw refuse('fetch', `the outbound Worker ${JSON.stringify(worker)} ended it with an exception`);
  }
  return response;
}

// What a dispatcher sends comes here first.
export class Dispatched extends WorkerEntrypoint {
  async fetch(request) {
    const told = request.headers.get(TOLD);
    if (told === null && !request.headers.has(CONTEXT)) {
      return this.env.WORKER.fetch(request);
    }
    const sent = new Request(request);
    sent.headers.delete(TOLD);
    sent.headers.delete(CONTEXT);
    if (told !== null) {
      state.guarded = true;
      sent.headers.set(CONTEXT, await sealed(told));
    }
    return this.env.WORKER.fetch(sent);
  }
}

export default {
  fetch(request, env) {
    const token = request.headers.get(CONTEXT);
    if (token !== null) {
      return viaOutbound(token, request, env);
    }
    if (state.guarded) {
      throw refuse('fetch', LOST);
    }
    return outbound.fetch(request, env);
  },
  connect(socket, env) {
    return outbound.connect(socket, state.guarded ? { WHY: LOST } : env);
  },
};
