// Stands behind a worker's service bindings, in the worker's process but apart from its code. A plain
// fetch goes out as HTTP, so that the machine's front shares it out like a visitor's; calls go as
// workerd's own RPC, by tunnels. A tunnel stays with the process it was opened to, so there are
// several for each worker, the lanes: the front says which lane leads to which version, and with what
// weight, and a call takes one of those. See decisions/0020.
import { WorkerEntrypoint } from 'cloudflare:workers';
import { handed } from './handed.js';

const FRESH_MS = 100;
const ASKING_MS = 1000;
const HOPS_MAX = 16;
const HOPS = 'cf-ew-via';
const TOO_DEEP = 'Subrequest depth limit exceeded. This request recursed through Workers too many times';
const states = new Map();

function stateOf(worker) {
  let state = states.get(worker);
  if (state === undefined) {
    state = { lanes: [], at: -Infinity, askedAt: -Infinity, inside: 0 };
    states.set(worker, state);
  }
  return state;
}

function enter(env, worker) {
  const state = stateOf(worker);
  if (state.inside >= env.CALLS_MAX) {
    const calls = `${env.CALLS_MAX} calls to ${JSON.stringify(worker)}`;
    throw new Error(`${TOO_DEEP}, or this worker has ${calls} under way at the same time.`);
  }
  state.inside += 1;
  return state;
}

function gone(worker) {
  return new Error(`Service binding failed: there is no worker ${JSON.stringify(worker)}, or nothing of it is deployed.`);
}

// `lane:weight,lane:weight` from the front itself; a worker that is gone has none.
async function ask(state, { door, worker }) {
  const answer = await door.fetch('http://services/', { headers: { 'x-kythera-lanes': '1' } });
  const text = (await answer.text()).trim();
  if (answer.headers.has('x-kythera-gone')) {
    state.lanes = [];
    throw gone(worker);
  }
  state.lanes = text === '' ? [] : text.split(',').map((row) => row.split(':').map(Number));
  state.at = Date.now();
}

function drawn(lanes, spare) {
  const total = lanes.reduce((sum, [, weight]) => sum + weight, 0);
  let left = Math.random() * total;
  for (const [lane, weight] of lanes) {
    left -= weight;
    if (left < 0) {
      return lane;
    }
  }
  return spare;  // The front chooses.
}

async function session(self, state) {
  const { target, worker, entrypoint, props } = self.ctx.props;
  const now = Date.now();
  const others = now - state.askedAt < ASKING_MS && state.lanes.length > 0;
  if (now - state.at >= FRESH_MS && !others) {
    state.askedAt = now;
    try {
      await ask(state, { door: self.env[`${target}/0`], worker });
    } finally {
      state.askedAt = -Infinity;
    }
  }
  const lane = self.env[`${target}/${drawn(state.lanes, self.env.LANES)}`];
  return { lane, meta: { entrypoint, props } };
}

// Ends with what it is about: a worker's own error goes on as it is.
async function within(self, doing) {
  const state = enter(self.env, self.ctx.props.worker);
  try {
    const { lane, meta } = await session(self, state);
    return await doing(lane, meta);
  } finally {
    state.inside -= 1;
  }
}

async function ofEntrypoint(self, request) {
  if (request.headers.has('upgrade')) {
    throw new TypeError('A WebSocket cannot go through a service binding with an entrypoint or props: bind to the default one.');
  }
  const sent = new Request(request);
  sent.headers.delete('x-kythera-told');
  return within(self, (lane, meta) => lane.kytheraFetch({ ...meta, request: sent }));
}

async function failed(response, worker) {
  await response.body?.cancel();
  return response.headers.has('x-kythera-gone') ? gone(worker) :
    new Error(`The worker ${JSON.stringify(worker)} ended this request with an exception; its own log tells which.`);
}

async function ofWorker(self, request) {
  const { target, worker } = self.ctx.props;
  const hops = (Number.parseInt(request.headers.get(HOPS), 10) || 0) + 1;
  if (hops > HOPS_MAX) {
    throw new Error(`${TOO_DEEP}.`);
  }
  const state = enter(self.env, worker);
  try {
    const sent = new Request(request);
    sent.headers.set(HOPS, String(hops));
    sent.headers.delete('x-kythera-lanes');
    sent.headers.delete('x-kythera-told');
    const response = await self.env[`${target}/0`].fetch(sent);
    const ours = response.headers.has('x-kythera-gone') || response.headers.has('x-kythera-threw');
    if (ours) {
      throw await failed(response, worker);
    }
    return response;
  } finally {
    state.inside -= 1;
  }
}

export default class Services extends WorkerEntrypoint {
  fetch(request) {
    const { entrypoint, props } = this.ctx.props;
    return entrypoint === undefined && props === undefined ?
      ofWorker(this, request) : ofEntrypoint(this, request);
  }

  connect() {
    throw new TypeError('A service binding carries requests and calls here, no TCP.');
  }
}

// A call of any name, and a property of any name that is waited for: it is both.
function both(self, name) {
  const call = (...given) => within(self, (lane, meta) => lane.kytheraDoor(meta)[name](...handed(given)));
  call.then = (done, fails) =>
    within(self, (lane, meta) => lane.kytheraDoor(meta)[name]).then(done, fails);
  return call;
}

Object.setPrototypeOf(Services.prototype, new Proxy(WorkerEntrypoint.prototype, {
  get: (target, name, self) => {
    const native = typeof name !== 'string' || ['constructor', 'then', 'env', 'ctx'].includes(name);
    return native ? Reflect.get(target, name, self) : both(self, name);
  },
}));
