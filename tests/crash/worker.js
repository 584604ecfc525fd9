// One worker that writes to every store: what it answers 200 to has been written. `?planted=` has it
// lie, so that whoever judges it can be judged: `early` answers first and writes then, `twice` gives
// each object a second instance with storage of its own.
import { DurableObject } from 'cloudflare:workers';

const ALARM_MS = 100;
const EARLY_MS = 200;
const LARGE_BYTES = 100_000;
const PART_BYTES = 5 * 1024 * 1024;
const NOTE_FOR_MS = 20_000;
const TWICE = 599;

// -- objects -------------------------------------------------------------------------------------

// Counts in SQL and in the key-value storage, in one step: both say the same, or the step was torn.
export class Counter extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    this.instance = crypto.randomUUID();
    ctx.storage.sql.exec('CREATE TABLE IF NOT EXISTS counts (value INTEGER)');
    // Whoever begins takes the number after the last; who sees another number than its own is not alone.
    ctx.blockConcurrencyWhile(async () => {
      this.epoch = ((await ctx.storage.get('epoch')) ?? 0) + 1;
      await ctx.storage.put('epoch', this.epoch);
    });
  }

  async add() {
    const { storage } = this.ctx;
    if ((await storage.get('epoch')) !== this.epoch) {
      throw new Error('twice at once');
    }
    return storage.transactionSync(() => {
      const value = (storage.kv.get('value') ?? 0) + 1;
      storage.kv.put('value', value);
      storage.sql.exec('INSERT INTO counts VALUES (?)', value);
      return `${value} ${this.instance}`;
    });
  }

  value() {
    const { storage } = this.ctx;
    const rows = storage.sql.exec('SELECT COUNT(*) AS rows FROM counts').one().rows;
    const value = storage.kv.get('value') ?? 0;
    return rows === value ? String(value) : `torn: ${rows} rows, ${value} counted`;
  }
}

// Has an alarm set by each write, and shows what the last one saw when it rang.
export class Bell extends DurableObject {
  async set(value) {
    await this.ctx.storage.put('set', Math.max(value, (await this.ctx.storage.get('set')) ?? 0));
    await this.ctx.storage.setAlarm(Date.now() + ALARM_MS);
  }

  async alarm() {
    await this.ctx.storage.put('rung', (await this.ctx.storage.get('set')) ?? 0);
  }

  async rung() {
    return String((await this.ctx.storage.get('rung')) ?? '');
  }
}

// Remembers what was heard, by whom.
export class Notes extends DurableObject {
  async note(where, names) {
    await this.ctx.storage.put(Object.fromEntries(names.map((name) => [`${where}/${name}`, true])));
  }

  async all(where) {
    const found = await this.ctx.storage.list({ prefix: `${where}/` });
    return [...found.keys()].map((key) => key.slice(where.length + 1)).join('\n');
  }
}

// -- stores --------------------------------------------------------------------------------------

// Each fifth value is that there is none.
const isDeletion = (value) => value % 5 === 0;

// A value, and its digits again and again up to a size.
const long = (value, bytes) => `${value}:`.repeat(Math.ceil(bytes / (value.length + 1))).slice(0, bytes);

function short(text, bytes) {
  const value = text?.split(':', 1)[0] ?? '';
  return text === null || text === long(value, bytes) ? value : `torn: ${text.length} bytes of ${value}`;
}

async function putParts(bucket, name, value) {
  const upload = await bucket.createMultipartUpload(name, { customMetadata: { value } });
  const parts = [
    await upload.uploadPart(1, long(value, PART_BYTES)),
    await upload.uploadPart(2, `end of ${value}`),
  ];
  await upload.complete(parts);
}

async function getParts(bucket, name) {
  const found = await bucket.get(name, { range: { offset: PART_BYTES } });
  if (found === null) {
    return '';
  }
  const [end, { value }] = [await found.text(), found.customMetadata];
  return end === `end of ${value}` ? value : `torn: ${end} and ${value}`;
}

const INSERT = ' (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2';

async function putRows(db, name, value) {
  const statement = isDeletion(value)
    ? (table) => db.prepare(`DELETE FROM ${table} WHERE name = ?1`).bind(name)
    : (table) => db.prepare(`INSERT INTO ${table}${INSERT}`).bind(name, value);
  await db.batch([statement('facts'), statement('copies')]);
}

async function getRows(db, name) {
  const read = (table) => db.prepare(`SELECT value FROM ${table} WHERE name = ?`).bind(name);
  const [fact, copy] = (await db.batch([read('facts'), read('copies')])).map(
    ({ results }) => results[0]?.value ?? '',
  );
  return fact === copy ? fact : `torn: ${fact} and ${copy}`;
}

async function getPair({ KV }, name) {
  const { value, metadata } = await KV.getWithMetadata(name);
  return value === null || metadata === value ? value ?? '' : `torn: ${value} with ${metadata}`;
}

const WRITES = {
  kv: ({ KV }, name, value) => (
    isDeletion(value) ? KV.delete(name) : KV.put(name, value, { metadata: value })),
  large: ({ KV }, name, value) => KV.put(name, long(value, LARGE_BYTES)),
  r2: ({ R2 }, name, value) => (isDeletion(value) ? R2.delete(name) : R2.put(name, value)),
  parts: ({ R2 }, name, value) => putParts(R2, name, value),
  d1: ({ DB }, name, value) => putRows(DB, name, value),
  object: ({ COUNTER }, name) => COUNTER.getByName(name).add(),
  alarm: ({ BELL }, name, value) => BELL.getByName(name).set(Number(value)),
  queue: ({ QUEUE }, name, value) => QUEUE.send(`${name}=${value}`),
  dead: ({ BAD }, name, value) => BAD.send(`${name}=${value}`),
};
const READS = {
  kv: getPair,
  large: async ({ KV }, name) => short(await KV.get(name), LARGE_BYTES),
  r2: async ({ R2 }, name) => (await R2.get(name))?.text() ?? '',
  parts: ({ R2 }, name) => getParts(R2, name),
  d1: ({ DB }, name) => getRows(DB, name),
  object: ({ COUNTER }, name) => COUNTER.getByName(name).value(),
  alarm: ({ BELL }, name) => BELL.getByName(name).rung(),
  notes: ({ NOTES }, name) => NOTES.getByName('all').all(name),
  secret: ({ SECRET }) => SECRET.get(),
};

const schema = (db) => db.exec(['facts', 'copies'].map(
  (table) => `CREATE TABLE IF NOT EXISTS ${table} (name TEXT PRIMARY KEY, value TEXT)`,
).join('\n'));

async function written(url, store, name, env, ctx) {
  const [value, planted] = [url.searchParams.get('value'), url.searchParams.get('planted')];
  const where = planted === 'twice' && Math.random() < 0.5 ? `${name}-again` : name;
  const write = () => WRITES[store](env, where, value);
  if (planted === 'early') {
    ctx.waitUntil(scheduler.wait(EARLY_MS).then(write));
    return 'written';
  }
  return String(await write() ?? 'written');
}

// A handler that throws has been called: so it tries for itself.
async function noted(env, where, names) {
  for (const end = Date.now() + NOTE_FOR_MS; ;) {
    try {
      return await env.NOTES.getByName('all').note(where, names);
    } catch (error) {
      if (Date.now() > end) {
        throw error;
      }
      await scheduler.wait(200);
    }
  }
}

export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const [, does, store, name] = url.pathname.split('/');
    try {
      if (does === 'begin') {
        await schema(env.DB);
        return new Response('begun');
      }
      return new Response(does === 'read'
        ? await READS[store](env, name)
        : await written(url, store, name, env, ctx));
    } catch (error) {
      const text = String(error);
      return new Response(text, { status: text.includes('twice at once') ? TWICE : 503 });
    }
  },

  // What comes to the bad queue is never taken: it goes where dead letters go.
  async queue(batch, env) {
    if (batch.queue === 'crash-bad') {
      batch.retryAll();
      return;
    }
    await noted(env, batch.queue, batch.messages.map((message) => message.body));
  },

  async scheduled(controller, env) {
    await noted(env, 'minutes', [String(controller.scheduledTime / 60_000)]);
  },
};
