// In a worker of a dispatch namespace: carries the token of a request that comes (dispatched.js) to the
// requests that the worker sends because of it. Evaluated before the worker's own code, with what it
// needs of the language. A worker that breaks this sends nothing out: there, nothing goes without.
import { AsyncLocalStorage } from 'node:async_hooks';

const HEADER = 'x-kythera-context';
const { apply } = Reflect;
const { defineProperty, getOwnPropertyDescriptor } = Object;
const AnyRequest = Request;
const native = fetch;
const headersOf = getOwnPropertyDescriptor(Request.prototype, 'headers')?.get;
const { delete: remove, get, set } = Headers.prototype;
const tokens = new AsyncLocalStorage();
const { getStore, run } = AsyncLocalStorage.prototype;

function headers(request) {
  return headersOf === undefined ? request.headers : apply(headersOf, request, []);
}

// Returns a `fetch` handler that runs with the token of its request, and never sees it.
export function within(handler) {
  return function fetch(request, env, ctx) {
    const token = apply(get, headers(request), [HEADER]);
    if (token === null) {
      return apply(handler, this, [request, env, ctx]);
    }
    const clean = new AnyRequest(request);
    apply(remove, headers(clean), [HEADER]);
    return apply(run, tokens, [token, () => apply(handler, this, [clean, env, ctx])]);
  };
}

function carrying(input, init) {
  const token = apply(getStore, tokens, []);
  if (token === undefined) {
    return native(input, init);
  }
  try {
    const request = new AnyRequest(input, init);
    apply(set, headers(request), [HEADER, token]);
    return native(request);
  } catch (error) {
    return Promise.reject(error);
  }
}

defineProperty(globalThis, 'fetch', {
  value: { fetch: (input, init = undefined) => carrying(input, init) }.fetch,
  configurable: true,
  enumerable: true,
  writable: true,
});
