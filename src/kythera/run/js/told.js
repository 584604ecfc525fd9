// In an outbound worker: what the dispatcher told it becomes keys of `env`, for that request alone. The
// header is ours: the machine's doors take it away from whoever else would send it.
const HEADER = 'x-kythera-told';
const { apply } = Reflect;
const { defineProperty } = Object;

// Returns a `fetch` handler that is given them; a class has `this.env`, an object its argument.
export function within(handler) {
  return function fetch(request, env, ctx) {
    const said = request.headers.get(HEADER);
    if (said === null) {
      return apply(handler, this, [request, env, ctx]);
    }
    const clean = new Request(request);
    clean.headers.delete(HEADER);
    const told = JSON.parse(said);
    if (env !== undefined) {
      return apply(handler, this, [clean, { ...env, ...told }, ctx]);
    }
    defineProperty(this, 'env', { value: { ...this.env, ...told }, configurable: true });
    return apply(handler, this, [clean]);
  };
}
