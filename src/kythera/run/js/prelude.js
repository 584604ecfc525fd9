// Stands before a worker's main module: hands on all it exports, and says of an uncaught exception
// which request (ray id) it ended. `%main%` becomes the main module's specifier, `%marker%` the
// mark of such a line. Only for versions whose default export has a `fetch` handler. What it needs of
// the language it has from a module that ran before the worker's code, which may have put something
// else in its place; what `report` finds changed costs that report.
import { native } from './kythera-natives.js';
import { reachable } from './kythera-entry.js';
import { WorkerEntrypoint } from 'cloudflare:workers';
import * as user from '%main%';
export * from '%main%';

const HANDLERS = [
  'fetch', 'scheduled', 'queue', 'email', 'tail', 'tailStream', 'trace', 'test', 'connect',
];
const MESSAGE_CHARACTERS_MAX = 1000;
const STACK_CHARACTERS_MAX = 4000;
function ours(line) {
  return line.includes('kythera-prelude.js:') || line.includes('kythera-subrequests.js:') ||
    line.includes('(kythera:');
}

function report(error, request) {
  try {
    const isError = error instanceof Error;
    const stack = isError ? String(error.stack).split('\n').filter((line) => !ours(line)) : [];
    native.print('%marker%' + native.stringify({
      ray: native.header(request.headers, 'cf-ray') ?? '',
      name: isError ? String(error.name) : typeof error,
      message: String(isError ? error.message : error).slice(0, MESSAGE_CHARACTERS_MAX),
      stack: stack.join('\n').slice(0, STACK_CHARACTERS_MAX),
    }));
  } catch {
    // An exception so odd that it cannot be told: workerd's own line must do.
  }
}

// What is answered at once stays so: making a promise of it would cost the cell a sixth of its time.
function watched(fetch, self) {
  return (request, env, ctx) => {
    const failed = (error) => {
      report(error, request);
      throw error;
    };
    let response;
    try {
      response = native.apply(fetch, self, [request, env, ctx]);
    } catch (error) {
      return failed(error);
    }
    return typeof response?.then === 'function' ?
      native.then(native.resolved(response), undefined, failed) : response;
  };
}

// Names on the object and what it inherits, so that methods of a class instance are found too.
function namesOf(handler) {
  const names = native.create(null);
  const add = (found) => {
    for (let at = 0; at < found.length; at += 1) {
      names[found[at]] = true;
    }
  };
  add(HANDLERS);
  let at = handler;
  for (let depth = 0; at && at !== native.ObjectPrototype && depth < 16; depth += 1) {
    add(native.getOwnPropertyNames(at));
    at = native.getPrototypeOf(at);
  }
  delete names.constructor;
  return native.getOwnPropertyNames(names);
}

// A plain object, or an instance: functions stay bound to the worker's own object, so that `this`
// and #private fields work; what is absent there stays absent here.
function wrapObject(handler) {
  const wrapped = {};
  const names = namesOf(handler);
  for (let at = 0; at < names.length; at += 1) {
    const name = names[at];
    const value = handler[name];
    if (name === 'fetch' && typeof value === 'function') {
      wrapped.fetch = watched(value, handler);
    } else if (typeof value === 'function') {
      wrapped[name] = (...given) => native.apply(value, handler, given);
    }
  }
  return wrapped;
}

function wrapClass(Entrypoint) {
  const { name } = Entrypoint;
  const named = {
    [name]: class extends Entrypoint {
      async fetch(request) {
        try {
          return await super.fetch(request);
        } catch (error) {
          report(error, request);
          throw error;
        }
      }
    },
  };
  return named[name];
}

function wrap(handler) {
  if (typeof handler === 'object' && handler !== null) {
    return wrapObject(handler);
  }
  const isEntrypoint = typeof handler === 'function' &&
    handler.prototype instanceof WorkerEntrypoint;
  return isEntrypoint && typeof handler.prototype.fetch === 'function' ?
    wrapClass(handler) : handler;
}

export default wrap(reachable(user.default));
