// Tried: a search for clocks that nobody thought of. Walks all that can be reached from the global
// scope, from every module that can be imported and from what can be constructed; calls each
// function and getter with few arguments, burns CPU within the same turn, calls them all again.
// Must be seen: nothing that looks like a number differs, but for chance and for memory counters.
const MODULES = `_http_agent _http_client _http_common _http_incoming _http_outgoing _http_server
  _stream_duplex _stream_passthrough _stream_readable _stream_transform _stream_wrap
  _stream_writable _tls_common _tls_wrap assert assert/strict async_hooks buffer child_process
  cluster console constants crypto dgram diagnostics_channel dns dns/promises domain events ffi fs
  fs/promises http http2 https inspector inspector/promises module net os path path/posix
  path/win32 perf_hooks process punycode querystring quic readline readline/promises repl sea
  sqlite stream stream/consumers stream/promises stream/web string_decoder sys test
  test/reporters timers timers/promises tls trace_events tty url util util/types v8 vm wasi
  worker_threads zlib`.split(/\s+/).map((name) => `node:${name}`).concat(
  `ai br containers durable email node pipelines sockets tracing vectorize workers workflows`
    .split(' ').map((name) => `cloudflare:${name}`),
  ['workerd:unsafe', 'kythera:clocks']);
const BURN_ROUNDS = 40_000_000;
const OBJECTS_MAX = 30_000;
const KEYS_MAX = 30;
const RECEIVERS_MAX = 2; // of one function or getter
// Ends the process, stops the search, or burns for long itself.
const LEFT_ALONE =
  /abort|exit|kill|fatal|breakpoint|debugger|burn|scrypt|pbkdf2|generate(Key|Prime)|dispatchEvent/i;
// Chance; counters of ports, sockets and streams, which the search itself uses.
const NO_CLOCK = new RegExp('random|uuid|_(readable|write)State|_outBuffer|_events|_http_client' +
  '|TLSSocket|address|localPort|kTimeout|writableBuffer|connect|createConnection|WebSocketPair' +
  '|Float(16|32|64)Array', 'i');
const COUNTED_MAX = 6;
const ARGUMENTS = [[], ['x'], [[], 'x'], [1], [undefined]];

function burn() {
  let sum = 0;
  for (let i = 0; i < BURN_ROUNDS; i += 1) {
    sum += i;
  }
  return sum;
}

const getters = new Map();

// What an object shows: its own keys, and the getters of its class.
function shownBy(object) {
  const prototype = Object.getPrototypeOf(object);
  if (!getters.has(prototype)) {
    const names = [];
    for (let at = prototype; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
      names.push(...Object.entries(Object.getOwnPropertyDescriptors(at))
        .filter(([, { get }]) => get).map(([name]) => name));
    }
    getters.set(prototype, names);
  }
  return [...Object.keys(object).slice(0, KEYS_MAX), ...getters.get(prototype)];
}

// A value as numbers and texts, two levels deep.
function told(value, depth = 0) {
  switch (typeof value) {
    case 'number': case 'bigint': return String(value);
    case 'string': return /\d/.test(value) ? value.slice(0, 200) : '';
    case 'object': break;
    default: return '';
  }
  if (value === null || depth > 2 || value instanceof Promise) {
    return '';
  }
  if (value instanceof Date) {
    return String(value.getTime());
  }
  let text = '';
  try {
    for (const key of shownBy(value)) {
      text += told(value[key], depth + 1) + ',';
    }
  } catch {
    // Not readable here.
  }
  return text.replace(/^,+$/, '');
}

// Grown by more than a counter would, or by a fraction.
function hasGrown(before, after) {
  const [old, young] = [before, after].map((text) => text.match(/-?\d+(\.\d+)?/g) ?? []);
  return old.length === young.length && old.some((number, at) => {
    const grown = Number(young[at]) - Number(number);
    return grown > COUNTED_MAX || (grown > 0 && !Number.isInteger(grown));
  });
}

function attempt(call) {
  try {
    const value = call();
    if (value instanceof Promise) {
      value.catch(() => {});
    }
    return value;
  } catch {
    return undefined;
  }
}

class Search {
  seen = new Set();
  queue = [];
  calls = [];
  receivers = new Map();

  add(path, value) {
    const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function';
    if (isObject && !ArrayBuffer.isView(value) && !this.seen.has(value) && this.seen.size < OBJECTS_MAX) {
      this.seen.add(value);
      this.queue.push([path, value]);
    }
  }

  walk() {
    for (let next; (next = this.queue.shift());) {
      const [path, object] = next;
      for (let at = object; at && at !== Object.prototype; at = Object.getPrototypeOf(at)) {
        attempt(() => Reflect.ownKeys(at)).forEach((key) => this.look(path, object, at, key));
      }
    }
  }

  isEnough(callee) {
    const many = this.receivers.get(callee) ?? 0;
    this.receivers.set(callee, many + 1);
    return many >= RECEIVERS_MAX;
  }

  look(path, object, at, key) {
    const name = `${path}.${String(key)}`;
    const known = attempt(() => Object.getOwnPropertyDescriptor(at, key));
    if (!known || LEFT_ALONE.test(name) || key === 'caller' || key === 'arguments') {
      return;
    }
    if (known.get && !this.isEnough(known.get)) {
      this.calls.push([`get ${name}`, () => object[key]]);
      const value = attempt(() => object[key]);
      if (typeof value === 'function') {
        this.function(name, object, value);
      }
      this.add(name, value);
    } else if (typeof known.value === 'function') {
      this.function(name, object, known.value);
    } else if (!known.get) {
      this.calls.push([`value ${name}`, () => object[key]]);
      this.add(name, known.value);
    }
  }

  function(name, self, callee) {
    const isNew = !this.seen.has(callee);
    this.add(name, callee);
    if (this.isEnough(callee)) {
      return;
    }
    for (const given of ARGUMENTS) {
      this.calls.push([`${name}(${given.length})`, () => Reflect.apply(callee, self, given)]);
      if (isNew && callee.prototype) {
        this.calls.push([`new ${name}(${given.length})`, () => Reflect.construct(callee, given)]);
        this.add(`(new ${name})`, attempt(() => Reflect.construct(callee, given)));
      }
    }
  }
}

export default {
  async fetch(request, env, ctx) {
    const search = new Search();
    const found = [];
    for (const name of MODULES) {
      try {
        search.add(name, await import(name));
        found.push(name);
      } catch {
        // Not offered with this date and these flags.
      }
    }
    const quiet = { ...console };
    Object.keys(console).forEach((name) => { console[name] = () => {}; });
    const { random } = Math;
    Math.random = () => 0.5;
    // What follows is one turn.
    search.add('globalThis', globalThis);
    const format = new Intl.DateTimeFormat('en', { second: '2-digit', fractionalSecondDigits: 3 });
    Object.entries({ request, env, ctx, format }).forEach(([name, it]) => search.add(name, it));
    search.walk();
    const before = search.calls.map(([, call]) => told(attempt(call)));
    burn();
    const after = search.calls.map(([, call]) => told(attempt(call)));
    const moved = {};
    search.calls.forEach(([name], at) => {
      if (!NO_CLOCK.test(name) && hasGrown(before[at], after[at])) {
        moved[name] = [before[at].slice(0, 60), after[at].slice(0, 60)];
      }
    });
    Math.random = random;
    Object.assign(console, quiet);
    return Response.json({ moved, calls: search.calls.length, objects: search.seen.size, found });
  },
};
