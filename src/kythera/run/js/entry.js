// Lets other workers of the account in: one method on a worker's default export, which workerd lets
// be called on the cell's own socket by those alone who know the worker's mark, and which leads to an
// entry point by its name, with props, as `ctx.exports` has it. Nothing here runs for a request that
// comes by the public door.
import { RpcTarget, WorkerEntrypoint } from 'cloudflare:workers';

const { defineProperty, setPrototypeOf } = Object;
const ReflectGet = Reflect.get;
const AnyProxy = Proxy;
const OWN = ['kytheraDoor', 'kytheraFetch'];

function entrypoint(ctx, { entrypoint: name, props }) {
  if (ctx.exports === undefined) {
    throw new TypeError('Its compatibility flag disable_ctx_exports keeps this worker from being called by others.');
  }
  const found = ctx.exports[name ?? 'default'];
  if (found === undefined) {
    throw new TypeError(`The worker has no entrypoint named ${JSON.stringify(name)}.`);
  }
  return found({ props: props ?? {} });
}

// Whatever is asked of it is asked of the entry point: what that refuses is refused in workerd's words.
function open(ctx, meta) {
  const stub = entrypoint(ctx, meta);
  class Door extends RpcTarget {}
  setPrototypeOf(Door.prototype, new AnyProxy(RpcTarget.prototype, {
    get: (target, name, self) => {
      const passes = typeof name === 'string' && name !== 'constructor' && name !== 'then';
      return passes ? (OWN.includes(name) ? undefined : stub[name]) : ReflectGet(target, name, self);
    },
  }));
  return new Door();
}

// The methods of a class have `this.ctx`; those of an object are given it.
const methods = {
  kytheraDoor(meta, env, ctx) {
    return open(ctx ?? this.ctx, meta);
  },
  kytheraFetch(meta, env, ctx) {
    return entrypoint(ctx ?? this.ctx, meta).fetch(meta.request);
  },
};

function holder(handler) {
  if (typeof handler === 'function') {
    return handler.prototype instanceof WorkerEntrypoint ? handler.prototype : null;
  }
  return typeof handler === 'object' ? handler : null;
}

// Returns the default export itself, which can be called now. What cannot be added to (a frozen
// object) stays as it is: then fetch alone leads to it.
export function reachable(handler) {
  const place = holder(handler);
  try {
    for (const name of place === null ? [] : OWN) {
      defineProperty(place, name, { value: methods[name], configurable: true });
    }
  } catch {
    // Frozen.
  }
  return handler;
}
