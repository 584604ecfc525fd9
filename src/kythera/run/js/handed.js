// A stub of an object and a service binding lead into their own process: workerd does not let them out of
// it, as arguments or results of calls. What stands for one here does: each call of it comes back.
import { RpcTarget, ServiceStub } from 'cloudflare:workers';

const DEPTH_MAX = 8;
// What workerd itself looks for on whatever it hands on.
const NOT_CALLED = new Set(['then', 'constructor', 'dup', 'onRpcBroken']);

function standIn(stub) {
  return new Proxy(new RpcTarget(), {
    get(target, name) {
      if (typeof name !== 'string' || NOT_CALLED.has(name)) {
        return name === 'constructor' ? target.constructor : undefined;
      }
      const called = (...given) => stub[name](...given);
      // Who reads a property instead of calling it awaits what it gets.
      called.then = (resolve, reject) => Promise.resolve(stub[name]).then(resolve, reject);
      return called;
    },
  });
}

function isHeld(value, depth = 0) {
  if (value === null || typeof value !== 'object' || depth > DEPTH_MAX) {
    return false;
  }
  if (value instanceof ServiceStub) {
    return true;
  }
  if (Array.isArray(value)) {
    return value.some((each) => isHeld(each, depth + 1));
  }
  const isPlain = Object.getPrototypeOf(value) === Object.prototype;
  return isPlain && Object.values(value).some((each) => isHeld(each, depth + 1));
}

// Returns a value as it may leave the process: itself, unless there is such a stub in it.
export function handed(value) {
  if (!isHeld(value)) {
    return value;
  }
  if (value instanceof ServiceStub) {
    return standIn(value);
  }
  if (Array.isArray(value)) {
    return value.map(handed);
  }
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, handed(each)]));
}
