// The machine's egress cell: all that workers send to the outside passes here. A cell says who it is
// by a token that the agent has signed; the token holds what its worker may reach. Addresses are
// checked twice: those written as numbers here, so that the reason has a name; all of them, after
// DNS, by workerd's own network service, which connects to the very address it has checked.
import net from 'node:net';
import {
  CHUNK_BYTES, Refused, Way, note, noteReason, opened, pump, securedBy, upgradable, write,
} from './ways.js';

const TOKEN = 'x-kythera-egress';
const CONNECT = 'x-kythera-connect';
const MARK = 'x-kythera-refused';
const OURS = 'x-kythera-';
const TOKENS_KEPT_MAX = 4096;
const TICKETS_KEPT_MAX = 1024; // of one worker
const TICKET_CHARACTERS_MAX = 4096;
const POLL_MS = 10;
const PROBE_MS_MAX = 5000;
const FAILED_MS = 50;
const TLS_NAME = /^(.*)\.(on|starttls)\.kythera-tls$/;
// Any of them may be upgraded; `on` is an upgrade before the first byte, which fails by a name of its own.
const CONNECTED_HOW = { allowHalfOpen: true, secureTransport: 'starttls' };
const PORTS = { 'http:': 80, 'https:': 443 };
const SENDABLE = (code) => code === 1000 || (code >= 3000 && code <= 4999);

const verified = new Map();
const tickets = new Map();
const ticketsBy = new WeakMap();
const workers = new Map();
const machine = { open: 0, forged: 0 };
let key;

// -- who asks ------------------------------------------------------------------------------------

function bytesOf(text) {
  return Uint8Array.fromBase64(text, { alphabet: 'base64url' });
}

async function isOurs(payload, mac, env) {
  const raw = new TextEncoder();
  key ??= await crypto.subtle.importKey(
    'raw', raw.encode(env.KEY), { name: 'HMAC', hash: 'SHA-256' }, false, ['verify'],
  );
  return crypto.subtle.verify('HMAC', key, bytesOf(mac), raw.encode(payload));
}

async function policyOf(token, env) {
  const known = verified.get(token);
  if (known !== undefined) {
    return known;
  }
  const [payload, mac, ...more] = token.split('.');
  let ours = false;
  try {
    ours = more.length === 0 && await isOurs(payload, mac, env);
  } catch {
    // Not even base64.
  }
  if (!ours) {
    machine.forged += 1;
    throw new Refused('token', 'this cell did not say which worker it is');
  }
  const policy = JSON.parse(new TextDecoder().decode(bytesOf(payload)));
  if (verified.size >= TOKENS_KEPT_MAX) {
    verified.delete(verified.keys().next().value);
  }
  verified.set(token, policy);
  return policy;
}

function countersOf({ account, worker }) {
  const name = `${account}/${worker}`;
  let counters = workers.get(name);
  if (counters === undefined) {
    counters = {
      account, worker, requests: 0, open: 0, waiting: 0, bytes_in: 0, bytes_out: 0, refused: {}, failed: {},
    };
    workers.set(name, counters);
  }
  return counters;
}

// -- what may be reached -------------------------------------------------------------------------

function numberOf(host) {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {
    return { bits: 32n, value: host.split('.').reduce((sum, part) => sum * 256n + BigInt(part), 0n) };
  }
  if (!host.startsWith('[')) {
    return null;
  }
  const [left, right] = host.slice(1, -1).split('::').map((half) => half.split(':').filter(Boolean));
  const gap = right === undefined ? [] : Array(8 - left.length - right.length).fill('0');
  const groups = [...left, ...gap, ...(right ?? [])];
  return { bits: 128n, value: groups.reduce((sum, part) => sum * 65536n + BigInt(`0x${part}`), 0n) };
}

function isWithin(address, { bits, value, length }) {
  const shift = BigInt(bits - length);
  return address.bits === BigInt(bits) && address.value >> shift === BigInt(value) >> shift;
}

function isListed(hosts, host, port) {
  return hosts.some((listed) => {
    const [, name, only] = /^(.*?)(?::(\d+))?$/.exec(listed);
    const fits = name.startsWith('*.') ? host.endsWith(name.slice(1)) : host === name;
    return fits && (only === undefined || Number(only) === port);
  });
}

// Returns the network to go through. What is asked of a name is decided after DNS, by that network.
function admit(host, port, policy, env) {
  const bare = host.endsWith('.') ? host.slice(0, -1) : host;
  if (policy.egress === 'hosts' && !isListed(policy.hosts, bare, port)) {
    throw new Refused('host_not_listed', `${host}:${port} is not among the hosts of kythera.egress`);
  }
  const own = env.RULES.ports.includes(port);
  const address = numberOf(host);
  const rules = own ? env.RULES.forbidden : [...env.RULES.own, ...env.RULES.forbidden];
  const met = address && rules.find((rule) => isWithin(address, rule));
  if (met) {
    throw new Refused(met.reason, `${host} is ${met.words}`);
  }
  return own ? env.DOORS : env.INTERNET;
}

// workerd says no more than «internal error» of a name that does not exist, of one that leads to an
// address it refuses, and of TLS that fails; a second try, without TLS, tells them apart.
function probed(host, port) {
  return new Promise((resolve) => {
    const end = (found) => {
      clearTimeout(timer);
      probe.destroy();
      resolve(found);
    };
    const timer = setTimeout(() => end('ETIMEDOUT'), PROBE_MS_MAX);
    const probe = net.connect(port, host.replace(/^\[|\]$/g, ''));
    probe.on('error', (error) => end(error.code ?? 'refused'));
    probe.on('connect', () => end('connected'));
  });
}

async function reasonOf(error, host, port, secure) {
  if (error instanceof Refused) {
    return error;
  }
  const found = await probed(host, port);
  if (found === 'ENOTFOUND' || found === 'EAI_AGAIN') {
    return new Refused('name_not_found', `there is no address for the name ${host}`, 502);
  }
  const said = String(error?.message ?? error);
  const isTls = found === 'connected' && secure && said.startsWith('internal error');
  if (isTls) {
    return new Refused('tls', `${host}:${port} is there, but TLS with it failed`, 502);
  }
  // A name that has turned since is what it was when it was refused.
  const isGeneric = said.startsWith('internal error') || said.includes('consider using fetch');
  if (found === 'refused' || (found === 'connected' && isGeneric)) {
    return new Refused('resolved_address', `the name ${host} leads to an address that is not allowed`);
  }
  return found === 'connected' ?
    new Refused('broke', `${host}:${port} broke the connection`, 502) :
    new Refused('unreachable', `${host}:${port} could not be reached (${found})`, 502);
}

// -- how much at a time --------------------------------------------------------------------------

// Waits for its turn; returns what ends it, which may be called more than once.
async function enter(counters, policy, limits) {
  const full = () => counters.open >= policy.connections || machine.open >= limits.total;
  if (full()) {
    if (counters.waiting >= limits.waiting) {
      throw new Refused('connections', `${policy.connections} outbound connections are open and ${counters.waiting} wait`, 503);
    }
    const end = Date.now() + limits.wait_ms;
    counters.waiting += 1;
    try {
      while (full()) {
        if (Date.now() >= end) {
          throw new Refused('connections', `none of ${policy.connections} outbound connections became free in ${limits.wait_ms} ms`, 503);
        }
        // The more wait, the less often each looks: a crowd must not burn what all share.
        await scheduler.wait(POLL_MS + counters.waiting);
      }
    } finally {
      counters.waiting -= 1;
    }
  }
  counters.open += 1;
  machine.open += 1;
  let left = false;
  return () => {
    if (!left) {
      left = true;
      counters.open -= 1;
      machine.open -= 1;
    }
  };
}

// Returns a pipe that keeps the length that was announced, and how many bytes to take at a time.
function pipeOf(headers) {
  const length = headers.get('content-length');
  if (length === null) {
    return { ...ends(new IdentityTransformStream()), room: CHUNK_BYTES };
  }
  const room = Math.max(1, Math.min(CHUNK_BYTES, Number(length)));
  return { ...ends(new FixedLengthStream(BigInt(length))), room };
}

function ends({ readable, writable }) {
  return { readable, writable };
}

// -- HTTP ----------------------------------------------------------------------------------------

function cleaned(headers, ...more) {
  const clean = new Headers(headers);
  [...clean.keys()].filter((name) => name.startsWith(OURS)).forEach((name) => clean.delete(name));
  more.forEach((name) => clean.delete(name));
  return clean;
}

function relay(upstream, counters, done) {
  const [theirs, ours] = Object.values(new WebSocketPair());
  const ends = [[upstream, ours, 'bytes_in'], [ours, upstream, 'bytes_out']];
  let closed = 0;
  for (const [from, to, counter] of ends) {
    from.accept();
    from.binaryType = 'arraybuffer';
    from.addEventListener('message', ({ data }) => {
      counters[counter] += typeof data === 'string' ? data.length : data.byteLength;
      try { to.send(data); } catch { /* It has closed meanwhile. */ }
    });
    const end = (code, reason) => {
      try { to.close(SENDABLE(code) ? code : 1011, reason); } catch { /* It has closed too. */ }
      closed += 1;
      if (closed === 1) {
        done();
      }
    };
    from.addEventListener('close', ({ code, reason }) => end(code === 1005 ? 1000 : code, reason));
    from.addEventListener('error', () => end(1011, 'the connection broke'));
  }
  return theirs;
}

function answered(response, counters, limits, ctx, done) {
  const headers = cleaned(response.headers);
  const init = { status: response.status, statusText: response.statusText, headers };
  if (response.webSocket) {
    return new Response(null, { ...init, webSocket: relay(response.webSocket, counters, done) });
  }
  if (response.body === null) {
    done();
    return new Response(null, init);
  }
  const { readable, writable, room } = pipeOf(headers);
  ctx.waitUntil(pump(response.body, writable, counters, 'bytes_in', limits.idle_ms, room).finally(done));
  return new Response(readable, { ...init, encodeBody: 'manual' });
}

async function forward(request, network, counters, env, ctx, done) {
  const stop = new AbortController();
  const late = new Refused('head_timeout', `no answer within ${env.LIMITS.head_ms} ms`, 504);
  const timer = setTimeout(() => stop.abort(late), env.LIMITS.head_ms);
  request.signal.addEventListener('abort', () => stop.abort(request.signal.reason));
  const init = {
    method: request.method,
    headers: cleaned(request.headers, 'host'),
    redirect: 'manual',
    encodeResponseBody: 'manual',
    signal: stop.signal,
  };
  if (request.body !== null) {
    const { readable, writable, room } = pipeOf(request.headers);
    ctx.waitUntil(pump(request.body, writable, counters, 'bytes_out', env.LIMITS.idle_ms, room));
    init.body = readable;
  }
  let response;
  try {
    response = await network.fetch(request.url, init);
  } catch (error) {
    throw stop.signal.reason ?? error;
  } finally {
    clearTimeout(timer);
  }
  return answered(response, counters, env.LIMITS, ctx, done);
}

function refusal(refused) {
  return new Response(`${refused.message}\n`, {
    status: refused.status,
    headers: { [MARK]: refused.reason, 'content-type': 'text/plain; charset=utf-8' },
  });
}

// Returns who asks, counted.
async function met(request, env) {
  const policy = await policyOf(request.headers.get(TOKEN) ?? '', env);
  const counters = countersOf(policy);
  counters.requests += 1;
  return { policy, counters };
}

async function fetched(request, env, ctx) {
  const url = new URL(request.url);
  const port = Number(url.port) || PORTS[url.protocol];
  let who = null;
  let done = null;
  try {
    who = await met(request, env);
    if (request.headers.has(CONNECT)) {
      return await ticketFor(request, who, env);
    }
    const network = admit(url.hostname, port, who.policy, env);
    done = await enter(who.counters, who.policy, env.LIMITS);
    return await forward(request, network, who.counters, env, ctx, done);
  } catch (error) {
    const refused = await told(error, who, url.hostname, port, url.protocol === 'https:');
    await rest(done);
    return refusal(refused);
  }
}

// What failed on its way keeps its place for a moment: looking up names and writing down what went
// wrong costs more than to ask, and whoever asks for it again and again pays with its own places.
async function rest(done) {
  if (done !== null) {
    await scheduler.wait(FAILED_MS);
    done();
  }
}

async function told(error, who, host, port, secure) {
  const refused = await reasonOf(error, host, port, secure);
  if (who !== null) {
    const isRefusal = refused.status === 403 || refused.status === 503;
    note(isRefusal ? who.counters.refused : who.counters.failed, refused.reason);
  }
  return refused;
}

// -- TCP -----------------------------------------------------------------------------------------

// Returns where a tunnel is to lead, and whether with TLS: `on`, `starttls`, or nothing of it.
function asked(address) {
  const at = address.lastIndexOf(':');
  const [, plain, how] = TLS_NAME.exec(address.slice(0, at)) ?? [null, address.slice(0, at), ''];
  const [, digits] = how ? /^([0-9a-f.-]+)\.literal$/i.exec(plain) ?? [] : [];
  const name = digits === undefined ? plain : `[${digits.replaceAll('-', ':')}]`;
  try {
    return { host: new URL(`http://${name}/`).hostname, port: Number(address.slice(at + 1)), how };
  } catch {
    throw new Refused('address', `${name} is not an address`);
  }
}

// A tunnel carries no headers, so a cell asks in a request, which says who it is, and gets a ticket:
// the tunnel's name, for one use.
async function ticketFor(request, who, env) {
  const { address } = JSON.parse((await request.text()).slice(0, TICKET_CHARACTERS_MAX));
  const { host, port, how } = asked(address);
  const network = admit(host, port, who.policy, env);
  const ticket = crypto.randomUUID();
  const waiting = ticketsOf(who.counters);
  if (waiting.size >= TICKETS_KEPT_MAX) {
    const [oldest] = waiting;
    waiting.delete(oldest);
    tickets.delete(oldest);
  }
  waiting.add(ticket);
  tickets.set(ticket, { host, port, how, network, who });
  return new Response(ticket);
}

function ticketsOf(counters) {
  let found = ticketsBy.get(counters);
  if (found === undefined) {
    found = new Set();
    ticketsBy.set(counters, found);
  }
  return found;
}

function say(socket, text) {
  return write(socket, new TextEncoder().encode(text));
}

// The first byte says whether the tunnel is open («+») or why not («-» and a sentence).
async function tunnelled(socket, env) {
  const { localAddress } = await socket.opened;
  const ticket = localAddress.slice(0, localAddress.lastIndexOf(':'));
  const found = tickets.get(ticket);
  tickets.delete(ticket);
  if (found === undefined) {
    machine.forged += 1;
    await socket.close();
    return;
  }
  const { host, port, how, network, who } = found;
  const { counters } = who;
  ticketsOf(counters).delete(ticket);
  let done = null;
  try {
    done = await enter(counters, who.policy, env.LIMITS);
    const upstream = network.connect({ hostname: host, port }, CONNECTED_HOW);
    await opened(upstream, env.LIMITS.head_ms);
    const way = new Way(socket, counters, env.LIMITS.tunnel_idle_ms);
    if (how === 'on') {
      const secured = await securedBy(upstream, `${host}:${port}`, '', env.LIMITS.head_ms);
      await say(socket, '+');
      await way.carry(secured);
    } else {
      await say(socket, '+');
      await (how === 'starttls' ? upgradable(way, upstream, host, port, env.LIMITS.head_ms) : way.carry(upstream));
    }
  } catch (error) {
    const refused = await told(error, who, host, port, false);
    await rest(done);
    await say(socket, `-${refused.message}`).catch(() => {});
    await socket.close().catch(() => {});
  } finally {
    done?.();
  }
}

export default {
  fetch(request, env, ctx) {
    // Whoever goes away in the middle must not take along what is still to be counted.
    const answer = fetched(request, env, ctx);
    ctx.waitUntil(answer);
    return answer;
  },
  async connect(socket, env, ctx) {
    const ended = tunnelled(socket, env);
    ctx.waitUntil(ended);
    await ended;
  },
};

// For the agent alone, on a socket of its own; it also tells what workerd printed of failed TLS.
export const counters = {
  async fetch(request) {
    if (request.method === 'POST') {
      noteReason(await request.json());
    }
    return Response.json({ open: machine.open, forged: machine.forged, workers: [...workers.values()] });
  },
};
