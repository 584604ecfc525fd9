// Stands in a stateless cell for the Durable Objects of a worker: each namespace is workerd's own,
// with the keys that the real one has, so ids are the same; each object is a shell that hands on
// what it is asked to the worker's object cell. `%exports%` becomes the classes, by namespace.
import { DurableObject } from 'cloudflare:workers';
import { handed } from './handed.js';

const HEADER = 'x-kythera-object';
const LEAVING = 'kythera: the object cell is being replaced';
const LOST = 'Network connection lost.';
const AGAIN_MS = 20;
const AGAIN_MAX = 1500;
const DEPTH_MAX = 8;
// What workerd itself looks for on an object that is none of the methods that others may call.
const NOT_CALLED = new Set([
  'constructor', 'then', 'alarm', 'webSocketMessage', 'webSocketClose', 'webSocketError',
]);

// What can be sent a second time: no stream, function or stub, whose first sending uses it up.
function isPlain(value, depth = 0) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) {
    return true;
  }
  if (typeof value === 'function' || depth > DEPTH_MAX) {
    return false;
  }
  if (Array.isArray(value)) {
    return value.every((each) => isPlain(each, depth + 1));
  }
  const kind = Object.getPrototypeOf(value);
  if (kind === Object.prototype) {
    return Object.values(value).every((each) => isPlain(each, depth + 1));
  }
  return kind === Date.prototype || ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

// A cell that is about to be replaced says so before it calls anything: then the next one is asked.
async function patiently(ask) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error?.message !== LEAVING || tries === AGAIN_MAX) {
        throw error;
      }
      await scheduler.wait(AGAIN_MS);
    }
  }
}

// Where another machine keeps the objects the front answers by itself when that is away, and a
// tunnel of calls ends.
async function answered(response, env) {
  if (env.AWAY && response.headers.has('x-kythera-away')) {
    await response.body?.cancel();
    throw new Error(env.AWAY);
  }
  return response;
}

async function reached(env, call) {
  try {
    return await call();
  } catch (error) {
    throw env.AWAY && error?.message === LOST ? new Error(env.AWAY, { cause: error }) : error;
  }
}

function shell(namespace) {
  return class extends DurableObject {
    constructor(ctx, env) {
      super(ctx, env);
      const where = { namespace, id: ctx.id.toString(), name: ctx.id.name };
      const header = encodeURIComponent(JSON.stringify(where));
      const door = () => {
        if (env.WHY) {
          throw new Error(env.WHY);
        }
        return env.DOOR;
      };
      const fetch = (request) => {
        const ask = async () => {
          const handed = new Request(request);
          handed.headers.set(HEADER, header);
          return answered(await door().fetch(handed), env);
        };
        return request.body === null ? patiently(ask) : ask();
      };
      return new Proxy(this, {
        get(target, name) {
          if (name === 'fetch') {
            return fetch;
          }
          if (typeof name !== 'string' || NOT_CALLED.has(name)) {
            return name === 'constructor' ? target.constructor : undefined;
          }
          const called = (...given) => {
            const ask = () => reached(env, () => door().call(where, name, handed(given)));
            return given.every((each) => isPlain(each)) ? patiently(ask) : ask();
          };
          // Who reads a property instead of calling it awaits what it gets.
          called.then = (resolve, reject) =>
            patiently(() => reached(env, () => door().property(where, name))).then(resolve, reject);
          return called;
        },
      });
    }
  };
}

'%exports%';
export default {};
