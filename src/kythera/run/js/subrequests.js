// Counts what one request asks of others, and refuses what is beyond its version's limit (decisions/0030).
// Evaluated before the worker's own code, with what it needs of the language. A request is known by the
// count that its async context carries from its `fetch` handler on. What runs outside of such a context
// (other handlers, whoever left it) is known by an object of its own I/O, which throws in any other's.
import { AsyncLocalStorage } from 'node:async_hooks';
import { env } from 'cloudflare:workers';

const MOST = Number('%limit%');
const NATIVE = 'function waitUntil() { [native code] }';
const MESSAGE = 'Too many subrequests by single Worker invocation. ' +
  `This Worker may make ${MOST}: see limits.subrequests in its configuration.`;
const LONG_MS = 2_000_000_000;
const AnyError = Error;
const AnyPromise = Promise;
const AnyProxy = Proxy;
const AnyWeakRef = WeakRef;
const Pair = WebSocketPair;
const later = setTimeout;
const printer = console;
const { error: print } = console;
const { apply, construct, ownKeys } = Reflect;
const { defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Object;
const { toString } = Function.prototype;
const { reject } = Promise;
const { deref } = WeakRef.prototype;
const { add, has } = WeakSet.prototype;
const { getStore, run } = AsyncLocalStorage.prototype;
const readyState = getOwnPropertyDescriptor(WebSocket.prototype, 'readyState')?.get;
const NoRange = RangeError.prototype;
const counts = new AsyncLocalStorage();
const entered = new WeakSet();
const listed = { __proto__: null, next: null }; // Counts of those without a context, the last used first.
let waits; // The `waitUntil` of workerd's own contexts.

// -- which request it is -------------------------------------------------------------------------

// Only what workerd itself hands to a handler, and each but once: a worker can call our handler, too.
function isFresh(context) {
  if (typeof context !== 'object' || context === null || apply(has, entered, [context])) {
    return false;
  }
  try {
    const found = waits ?? context.waitUntil;
    if (waits === undefined && apply(toString, found, []) !== NATIVE) {
      return false;
    }
    apply(found, context, [undefined]);
    waits = found;
  } catch {
    return false;
  }
  apply(add, entered, [context]);
  return true;
}

// Returns a `fetch` handler whose requests are counted one by one.
export function within(handler) {
  return function fetch(request, given, ctx) {
    const call = () => apply(handler, this, [request, given, ctx]);
    const fresh = isFresh(ctx ?? this?.ctx);
    return fresh ? apply(run, counts, [{ __proto__: null, spent: 0 }, call]) : call();
  };
}

function isMine({ socket }) {
  try {
    if (readyState === undefined) {
      return socket.readyState !== undefined;
    }
    return apply(readyState, socket, []) !== undefined;
  } catch (error) {
    if (getPrototypeOf(error) === NoRange) {
      throw error; // No stack is left: that says nothing of whose it is.
    }
    return false;
  }
}

function first(node) {
  node.next = listed.next;
  listed.next = node;
}

function withoutContext() {
  for (let before = listed; before.next !== null;) {
    const node = before.next;
    const count = apply(deref, node.ref, []);
    if (count === undefined) {
      before.next = node.next;
    } else if (isMine(count)) {
      before.next = node.next;
      first(node);
      return count;
    } else {
      before = node;
    }
  }
  const count = { __proto__: null, spent: 0, socket: new Pair()[0] };
  later(() => count, LONG_MS); // Kept for as long as the request lives, and no longer.
  first({ __proto__: null, ref: new AnyWeakRef(count), next: null });
  return count;
}

// Returns an error when nothing is left.
function spend() {
  const count = apply(getStore, counts, []) ?? withoutContext();
  count.spent += 1;
  if (count.spent <= MOST) {
    return undefined;
  }
  if (count.spent === MOST + 1) {
    apply(print, printer, [`%marker%${MOST}`]);
  }
  return new AnyError(MESSAGE);
}

// -- what is counted -----------------------------------------------------------------------------

function put(place, name, value) {
  defineProperty(place, name, { __proto__: null, ...getOwnPropertyDescriptor(place, name), value });
}

function countMethod(start, name) {
  let place = start;
  while (place && !getOwnPropertyDescriptor(place, name)) {
    place = getPrototypeOf(place);
  }
  const native = place && getOwnPropertyDescriptor(place, name).value;
  if (typeof native !== 'function') {
    return;
  }
  put(place, name, {
    [name](...given) {
      const error = spend();
      return error === undefined ? apply(native, this, given) : apply(reject, AnyPromise, [error]);
    },
  }[name]);
}

function countClass(name) {
  const native = globalThis[name];
  if (native === undefined) {
    return;
  }
  const place = getOwnPropertyDescriptor(globalThis, name) ? globalThis : getPrototypeOf(globalThis);
  const value = new AnyProxy(native, {
    __proto__: null,
    construct(target, given, newTarget) {
      const error = spend();
      if (error !== undefined) {
        throw error;
      }
      return construct(target, given, newTarget);
    },
  });
  put(place, name, value);
  put(native.prototype, 'constructor', value);
}

const METHODS = {
  __proto__: null,
  KvNamespace: ['get', 'getWithMetadata', 'put', 'delete', 'list'],
  R2Bucket: ['head', 'get', 'put', 'delete', 'list', 'createMultipartUpload'],
  WorkerQueue: ['send', 'sendBatch'],
  Fetcher: ['fetch', 'get', 'put', 'delete'],
  D1Database: ['exec', 'batch', 'dump'],
  D1PreparedStatement: ['first', 'run', 'all', 'raw'],
};
const known = new Set();

function countBinding(binding) {
  const place = typeof binding === 'object' && binding !== null ? getPrototypeOf(binding) : null;
  const names = METHODS[place?.constructor?.name];
  if (names === undefined || known.has(place)) {
    return;
  }
  known.add(place);
  if (place.constructor.name === 'D1Database') {
    countBinding(binding.prepare('SELECT 1'));
  }
  for (const name of names) {
    countMethod(place, name);
  }
}

for (const name of ownKeys(env)) {
  countBinding(env[name]);
}
countMethod(globalThis, 'fetch');
countMethod(navigator, 'sendBeacon');
for (const name of ['match', 'put', 'delete']) {
  countMethod(Cache.prototype, name);
}
countClass('WebSocket');
countClass('EventSource');
