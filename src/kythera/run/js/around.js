// Stands before a worker's main module (prelude.js, plain.js, and the worker's own behind them) where
// its `fetch` has to run within something of ours: `%within%` becomes the module that says what.
import { within } from '%within%';
import inner from '%inner%';
export * from '%inner%';

function around(handler) {
  const place = typeof handler === 'function' ? handler.prototype : handler;
  const found = place?.fetch;
  if (typeof found !== 'function') {
    return handler;
  }
  const fetch = within(found);
  try {
    Object.defineProperty(place, 'fetch', { value: fetch, configurable: true, writable: true });
    return handler;
  } catch {
    return { ...handler, fetch: (...given) => Reflect.apply(fetch, handler, given) };  // It is frozen.
  }
}

export default around(inner);
