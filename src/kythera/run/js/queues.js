// The door of queues: workerd's own (`bundled-queues.js`) keeps and delivers messages; here is what it
// leaves to others: who may send, delays that a queue or a binding has, consumers in other processes,
// and what the API asks (purge, pull, metrics).
import { consumersOf } from './consumers.js';
import engine, { QueueShard } from './bundled-queues.js';
import { Gathered, joined } from './gathered.js';
import { passOf } from './passes.js';

const STORE = 'queues';
const DELAY = 'x-msg-delay-secs';
const BINDING_DELAY = 'x-kythera-delay';
const DELAY_S_MAX = 86_400;
const SHARDS = 1024;
const SHARDS_TRIED = 4;
// The engine's own limit for one shard; with more a consumer waits here.
const AT_ONCE_MAX = 8;
const AGAIN_MS = 1000;
const AGAIN_FOR_MS = 300_000;
const SETTLED_WITHIN_MS = 3;
const FORMATS = ['v8', 'text', 'json', 'bytes'];

// Below the engine's limits, for one message and for a batch, whatever is in it.
const OPENED_BYTES_MAX = 128_000;
const OPENED_MESSAGES_MAX = 100;

const decoder = new TextDecoder();
const encoder = new TextEncoder();

// Who consumes which queue, and the delay of each: as the configuration says, until the agent says more.
const changeConsumers = consumersOf();
let told = null;
const records = (env) => told ?? { to: env.TO, delays: env.DELAYS };
// Queues to be looked at, also by the next word of the agent when this one's look breaks off.
const unseen = new Set();

// -- what each worker did ------------------------------------------------------------------------

const uses = new Map();
let counting;

function noteUse({ account, worker }, counts) {
  const name = `${account}/${worker}`;
  let use = uses.get(name);
  if (use === undefined) {
    use = { account, worker, counts: { calls: 0, failed: 0, sent: 0, batches: 0, delivered: 0 } };
    uses.set(name, use);
  }
  for (const [what, count] of Object.entries(counts)) {
    use.counts[what] += count;
  }
}

// -- to a consumer -------------------------------------------------------------------------------

// A batch as `events.js` reads it.
function framed(queue, messages, metadata) {
  const parts = [];
  const told = messages.map(({ id, timestamp, attempts, body, serializedBody }) => {
    const message = { id, timestamp: timestamp.getTime(), attempts };
    if (serializedBody !== undefined) {
      parts.push(serializedBody);
      return { ...message, v8: serializedBody.byteLength };
    }
    if (body instanceof ArrayBuffer) {
      parts.push(new Uint8Array(body));
      return { ...message, bytes: body.byteLength };
    }
    return { ...message, body };
  });
  const head = encoder.encode(JSON.stringify({ queue, metadata, messages: told }));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, head.byteLength);
  return joined([new Uint8Array(length.buffer), head, ...parts]);
}

const underWay = new Map();

async function inTurn(queue, most, deliver) {
  while ((underWay.get(queue) ?? 0) >= most) {
    await scheduler.wait(20);
  }
  underWay.set(queue, (underWay.get(queue) ?? 0) + 1);
  try {
    return await deliver();
  } finally {
    underWay.set(queue, underWay.get(queue) - 1);
  }
}

// Asks the agent to call the consumer. What could not be called has seen nothing: that is no attempt,
// unless the queue has another consumer by now, or none.
async function delivered(env, queue, messages, metadata) {
  const consumer = records(env).to[queue];
  if (consumer === undefined) {
    throw new Error('nobody consumes it any more');
  }
  const { account, worker, name, concurrency } = consumer;
  const body = framed(name, messages, metadata);
  return await inTurn(queue, concurrency || AT_ONCE_MAX, async () => {
    const url = `http://events/${account}/${worker}/queue`;
    const end = Date.now() + AGAIN_FOR_MS;
    for (;;) {
      const answer = await env.EVENTS.fetch(url, { method: 'POST', body });
      const told = await answer.json();
      if (answer.status === 200) {
        noteUse({ account, worker }, { batches: 1, delivered: messages.length });
        return told;
      }
      const other = records(env).to[queue]?.worker !== worker;
      if (answer.status !== 503 || Date.now() > end || other) {
        throw new Error(`${worker}: ${told.outcome ?? answer.status} ${told.detail ?? ''}`);
      }
      await scheduler.wait(AGAIN_MS);
    }
  });
}

// -- a shard -------------------------------------------------------------------------------------

// Batches that come back at about the same time are settled in one transaction, together with what is
// sent meanwhile.
class Round {
  #ended = null;
  #end = () => {};

  wait() {
    if (this.#ended === null) {
      this.#ended = new Promise((resolve) => {
        const timer = setTimeout(() => this.#end(), SETTLED_WITHIN_MS);
        this.#end = () => {
          clearTimeout(timer);
          this.#ended = null;
          this.#end = () => {};
          resolve();
        };
      });
    }
    return this.#ended;
  }

  end() {
    this.#end();
  }
}

// A batch as the engine takes one from another shard: with its bodies as bytes, which it then need not
// open letter by letter. Null for one that might break a limit: that is the engine's to say.
function openedBatch(body) {
  if (body.byteLength > OPENED_BYTES_MAX) {
    return null;
  }
  const { messages } = JSON.parse(decoder.decode(body));
  if (messages.length > OPENED_MESSAGES_MAX) {
    return null;
  }
  return messages.map((message) => ({ ...message, body: Uint8Array.fromBase64(message.body) }));
}

// Whether all messages of a batch are done with.
function areDone({ outcome, retryBatch, retryMessages }) {
  return outcome === 'ok' && !retryBatch.retry && (retryMessages ?? []).length === 0;
}

export class Shard extends QueueShard {
  #gathered;
  #round = new Round();

  constructor(ctx, env) {
    const { storage } = ctx;
    const gathered = new Gathered(storage.sql);
    Object.defineProperty(storage, 'sql', { value: gathered });
    super(ctx, { ...env, CONSUMER: { queue: (...batch) => this.#deliver(gathered.lease, batch) } });
    this.#gathered = gathered;
  }

  async #deliver(lease, batch) {
    const told = await delivered(this.env, ...batch);
    await this.#round.wait();
    if (areDone(told)) {
      this.#gathered.settle(lease);
    }
    return told;
  }

  call(queue, op, format, delay, body) {
    const opened = op === '/batch' ? openedBatch(body) : null;
    const answer = opened === null
      ? super.call(queue, op, format, delay, body)
      : super.call(queue, '/dead', format, delay, opened);
    this.#gathered.flush();
    this.#round.end();
    if (answer.status === 429) {
      this.ctx.storage.kv.put('kythera-full-once', true);
    }
    return answer;
  }

  // Counts, and has what is due be looked at; `spilled`: there is another shard.
  look(queue) {
    const { body } = this.call(queue, '/metrics', 'json', 0, null);
    const spilled = this.ctx.storage.kv.get('kythera-full-once') === true;
    return { ...JSON.parse(body), spilled };
  }

  // What is too old the engine sweeps away itself, and keeps its counts right.
  #drop(where, ...given) {
    this.ctx.storage.sql.exec(`UPDATE messages SET timestamp = 0 WHERE ${where}`, ...given);
  }

  purge(queue) {
    this.#drop('TRUE');
    return this.look(queue);
  }

  pull(queue, most, hidden_ms, retries, dead) {
    const now = Date.now();
    const { sql } = this.ctx.storage;
    const spent = sql.exec(
      'SELECT seq, id, format, body, timestamp FROM messages WHERE lease IS NULL AND dead = 0'
      + ' AND timestamp > 0 AND visible_at <= ? AND attempts > ? LIMIT 100', now, retries,
    ).toArray();
    if (spent.length > 0 && dead === '') {
      spent.forEach(({ seq }) => this.#drop('seq = ?', seq));
    }
    const rows = sql.exec(
      'UPDATE messages SET attempts = attempts + 1, visible_at = ? WHERE seq IN (SELECT seq FROM messages'
      + ' WHERE lease IS NULL AND dead = 0 AND timestamp > 0 AND visible_at <= ? AND attempts <= ?'
      + ' ORDER BY visible_at, seq LIMIT ?) RETURNING seq, id, format, body, timestamp, attempts',
      now + hidden_ms, now, retries, most,
    ).toArray();
    const letters = dead === '' ? [] : spent.map(({ id, format, body, timestamp }) => (
      { id, timestamp, contentType: FORMATS[format], body }));
    const told = rows.sort((a, b) => a.seq - b.seq).map((row) => ({ ...row, format: FORMATS[row.format] }));
    return { rows: told, letters, spent: spent.map(({ seq }) => seq), ...this.look(queue) };
  }

  // A lease is good until somebody else has pulled the message again.
  settle(queue, acks, retries) {
    const { sql } = this.ctx.storage;
    let [acked, retried] = [0, 0];
    for (const { seq, attempts } of acks) {
      const found = sql.exec('UPDATE messages SET timestamp = 0 WHERE seq = ? AND attempts = ? AND timestamp > 0 RETURNING seq', seq, attempts);
      acked += found.toArray().length;
    }
    for (const { seq, attempts, delay_s } of retries) {
      const found = sql.exec('UPDATE messages SET visible_at = ? WHERE seq = ? AND attempts = ? RETURNING seq', Date.now() + delay_s * 1000, seq, attempts);
      retried += found.toArray().length;
    }
    this.look(queue);
    return { acked, retried };
  }

  buried(queue, seqs) {
    seqs.forEach((seq) => this.#drop('seq = ?', seq));
    this.look(queue);
  }
}

// The shards that a queue has ever needed, as the engine picks them.
async function shardsOf(env, queue) {
  const found = [];
  for (let miss = 0; miss < SHARDS_TRIED; miss += 1) {
    let hash = 0x811c9dc5;
    for (const character of `local/${queue}/${miss}`) {
      hash = Math.imul(hash ^ character.charCodeAt(0), 16777619);
    }
    const number = (hash >>> 0) % SHARDS;
    const stub = env.SHARD.getByName(`${queue}#${number}`);
    found.push({ number, stub });
    if (!(await stub.look(queue)).spilled) {
      break;
    }
  }
  return found;
}

// -- what the API asks ---------------------------------------------------------------------------

const ASKED = {
  // Shards sleep until their alarms ring, which are set for the consumers of their time: those whose
  // consumer is another, and all after a start, are looked at.
  async consumers(env, queue, { consumers, to, delays }) {
    const begun = JSON.stringify([env.CONSUMERS, env.TO, env.DELAYS]);
    if (changeConsumers === null && JSON.stringify([consumers, to, delays]) !== begun) {
      return null;
    }
    const others = changeConsumers?.(consumers) ?? [];
    (told === null ? Object.keys(consumers) : others).forEach((each) => unseen.add(each));
    told = { to, delays };
    for (const each of unseen) {
      await shardsOf(env, each);
      unseen.delete(each);
    }
    return {};
  },

  async metrics(env, queue) {
    const told = { backlog_count: 0, backlog_bytes: 0, oldest_message_timestamp_ms: 0 };
    for (const { stub } of await shardsOf(env, queue)) {
      const found = await stub.look(queue);
      told.backlog_count += found.backlogCount;
      told.backlog_bytes += found.backlogBytes;
      told.oldest_message_timestamp_ms ||= found.oldestMessageTimestamp;
    }
    return told;
  },

  async purge(env, queue) {
    for (const { stub } of await shardsOf(env, queue)) {
      await stub.purge(queue);
    }
    return {};
  },

  async pull(env, queue, { batch_size, visibility_timeout_ms, max_retries, dead_letter_queue }) {
    const messages = [];
    for (const { number, stub } of await shardsOf(env, queue)) {
      const most = batch_size - messages.length;
      const told = await stub.pull(queue, most, visibility_timeout_ms, max_retries, dead_letter_queue);
      if (told.letters.length > 0) {
        const [{ stub: target }] = await shardsOf(env, dead_letter_queue);
        await target.call(dead_letter_queue, '/dead', 'v8', 0, told.letters);
        await stub.buried(queue, told.spent);
      }
      for (const { seq, id, format, body, timestamp, attempts } of told.rows) {
        const bytes = new Uint8Array(body);
        const isText = format === 'text' || format === 'json';
        messages.push({
          id,
          lease: `${number}.${seq}.${attempts}`,
          format,
          body: isText ? new TextDecoder().decode(bytes) : bytes.toBase64(),
          timestamp_ms: timestamp,
          attempts,
        });
      }
      if (messages.length >= batch_size) {
        break;
      }
    }
    return { messages, ...await ASKED.metrics(env, queue) };
  },

  async settle(env, queue, { acks, retries }) {
    const told = { acked: 0, retried: 0 };
    const read = ({ lease, delay_s = 0 }) => {
      const [number, seq, attempts] = lease.split('.').map(Number);
      return { number, seq, attempts, delay_s };
    };
    const [acked, retried] = [acks.map(read), retries.map(read)];
    for (const number of new Set([...acked, ...retried].map((each) => each.number))) {
      const stub = env.SHARD.getByName(`${queue}#${number}`);
      const of = (each) => each.number === number;
      const found = await stub.settle(queue, acked.filter(of), retried.filter(of));
      told.acked += found.acked;
      told.retried += found.retried;
    }
    return told;
  },
};

// -- who sends -----------------------------------------------------------------------------------

async function sent(request, env, pass) {
  const queue = pass.resource;
  const { headers } = request;
  const ours = headers.get(BINDING_DELAY) ?? records(env).delays[queue] ?? 0;
  const given = headers.get(DELAY);
  const delay = Number(given ?? ours);
  if (!(delay >= 0 && delay <= DELAY_S_MAX)) {
    return Response.json(`a delay of ${delay} s is not from 0 to ${DELAY_S_MAX} s`, { status: 400 });
  }
  let asked = request;
  if (given === null && delay > 0) {
    asked = new Request(request);
    asked.headers.set(DELAY, String(delay));
  }
  const answer = await engine.fetch(asked, env, { props: { queue } });
  if (pass.worker !== '' && request.method === 'POST') {
    const messages = answer.ok ? Number(headers.get('cf-queue-batch-count') ?? 1) : 0;
    noteUse(pass, { calls: 1, failed: Number(!answer.ok), sent: messages });
  }
  return answer;
}

export default {
  async fetch(request, env) {
    const pass = await passOf(request, env, STORE);
    if (pass === null) {
      return new Response('This is not a pass to a queue of this machine.', { status: 403 });
    }
    const { pathname } = new URL(request.url);
    const asked = pathname.startsWith('/ask/') && pass.worker === '' ? ASKED[pathname.slice(5)] : undefined;
    if (asked !== undefined) {
      const answer = await asked(env, pass.resource, await request.json());
      return Response.json(answer, { status: answer === null ? 501 : 200 });
    }
    if (pathname === '/usage' && pass.resource === '') {
      counting ??= crypto.randomUUID();
      return Response.json({ process: counting, workers: [...uses.values()] });
    }
    return await sent(request, env, pass);
  },
};
