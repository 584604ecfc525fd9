// The binding to a dispatch namespace: `env.DISPATCH.get(name, args?, { outbound })` → what has `fetch`.
//
// An internal module of workerd's: the worker sees the objects that it makes, never the service behind
// them (dispatching.js), which knows the namespace's key and so reaches its workers and no others.
const ASKED = 'x-kythera-dispatch';
const NOT_ASCII = /[\u007f-\uffff]/g;
const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

function isEmpty(value) {
  return value === undefined || value === null ||
    (typeof value === 'object' && Object.keys(value).length === 0);
}

// What is not there is refused by name: a limit that nobody holds would be worse than none.
function read(name, args, options, parameters) {
  if (typeof name !== 'string' || name === '') {
    throw new TypeError('get(name) of a dispatch namespace takes the name of a Worker.');
  }
  if (!isEmpty(args)) {
    throw new TypeError('get(name, args): a Worker takes no arguments here; tell it in headers.');
  }
  const { outbound, limits, ...unknown } = options ?? {};
  if (!isEmpty(limits)) {
    throw new TypeError('get(…, { limits }): a dispatch sets no limits here; set limits.cpu_ms in the metadata that the Worker is uploaded with.');
  }
  const strange = Object.keys(unknown);
  if (strange.length > 0) {
    throw new TypeError(`get(…, options): there is no option ${JSON.stringify(strange[0])}.`);
  }
  const undeclared = Object.keys(outbound ?? {}).find((key) => !parameters.includes(key));
  if (undeclared !== undefined) {
    throw new TypeError(`get(…, { outbound }): ${JSON.stringify(undeclared)} is not among the parameters of this binding's outbound Worker.`);
  }
  return { name, params: outbound ?? {} };
}

class DispatchedWorker {
  #door;
  #asked;

  constructor(door, asked) {
    this.#door = door;
    this.#asked = asked;
  }

  async fetch(input, init) {
    const request = new Request(input, init);
    request.headers.set(ASKED, this.#asked);
    return this.#door.fetch(request);
  }

  connect() {
    throw new TypeError('A dispatch carries requests here, no TCP.');
  }
}

// A method of any other name would be a call, which needs a tunnel that is made before it is known to whom.
function callable(worker) {
  return new Proxy(worker, {
    get(target, name) {
      const own = target[name];
      if (typeof own === 'function') {
        return own.bind(target);
      }
      if (own !== undefined || typeof name !== 'string' || name === 'then' || name === 'toJSON') {
        return own;
      }
      return () => Promise.reject(new TypeError(`A dispatched Worker has fetch() alone here: ${JSON.stringify(name)} cannot be called. Make it a request.`));
    },
  });
}

class DispatchNamespace {
  #door;
  #parameters;

  constructor(door, parameters) {
    this.#door = door;
    this.#parameters = parameters;
  }

  get(name, args, options) {
    const asked = JSON.stringify(read(name, args, options, this.#parameters));
    return callable(new DispatchedWorker(this.#door, asked.replace(NOT_ASCII, escaped)));
  }
}

export default function (env) {
  return new DispatchNamespace(env.door, env.parameters);
}
