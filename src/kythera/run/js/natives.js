// What our own code needs of the language, taken before any of the worker's code can put something
// else in its place. Evaluated first; nobody can change what it hands on.
const { apply, getPrototypeOf } = Reflect;
const { create, freeze, getOwnPropertyNames } = Object;
const { error } = console;
const printer = console;
const { get } = Headers.prototype;
const AnyPromise = Promise;
const { resolve } = AnyPromise;
const { then } = Promise.prototype;

export const native = freeze({
  __proto__: null,
  ObjectPrototype: Object.prototype,
  apply,
  create,
  getOwnPropertyNames,
  getPrototypeOf,
  header: (headers, name) => apply(get, headers, [name]),
  print: (line) => apply(error, printer, [line]),
  resolved: (value) => apply(resolve, AnyPromise, [value]),
  stringify: JSON.stringify,
  then: (promise, done, failed) => apply(then, promise, [done, failed]),
});
