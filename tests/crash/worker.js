// One worker that writes to every store: what it answers 200 to has been written. `early` is the planted
// fault: it answers first.
import { DurableObject } from 'cloudflare:workers';

export class Counter extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    // Whoever begins takes the number after the last; who sees another number than its own is not alone.
    ctx.blockConcurrencyWhile(async () => {
      this.epoch = ((await ctx.storage.get('epoch')) ?? 0) + 1;
      await ctx.storage.put('epoch', this.epoch);
    });
  }

  async add() {
    if ((await this.ctx.storage.get('epoch')) !== this.epoch) {
      throw new Error('twice at once');
    }
    const value = ((await this.ctx.storage.get('value')) ?? 0) + 1;
    await this.ctx.storage.put('value', value);
    return value;
  }

  async value() {
    return (await this.ctx.storage.get('value')) ?? 0;
  }

  async note(names) {
    await this.ctx.storage.put(Object.fromEntries(names.map((name) => [`heard/${name}`, true])));
  }

  async heard() {
    return [...(await this.ctx.storage.list({ prefix: 'heard/' })).keys()].map((key) => key.slice(6));
  }
}

const WRITES = {
  kv: ({ KV }, name, value) => KV.put(name, value),
  r2: ({ R2 }, name, value) => R2.put(name, value),
  d1: ({ DB }, name, value) => DB.prepare(
    'INSERT INTO facts (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2',
  ).bind(name, value).run(),
  object: ({ COUNTER }, name) => COUNTER.getByName(name).add(),
  queue: ({ QUEUE }, name, value) => QUEUE.send(`${name}=${value}`),
};
const READS = {
  kv: ({ KV }, name) => KV.get(name),
  r2: async ({ R2 }, name) => (await R2.get(name))?.text() ?? null,
  d1: ({ DB }, name) => DB.prepare('SELECT value FROM facts WHERE name = ?').bind(name).first('value'),
  object: async ({ COUNTER }, name) => String(await COUNTER.getByName(name).value()),
  queue: async ({ COUNTER }) => (await COUNTER.getByName('heard').heard()).join('\n'),
};

export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    const [, does, store, name] = url.pathname.split('/');
    try {
      if (does === 'begin') {
        await env.DB?.exec('CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT)');
        return new Response(Object.keys(env).sort().join());
      }
      if (does === 'read') {
        return new Response(String(await READS[store](env, name) ?? ''));
      }
      const write = () => WRITES[store](env, name, url.searchParams.get('value'));
      if (url.searchParams.has('early')) {
        ctx.waitUntil(scheduler.wait(200).then(write));
      } else {
        await write();
      }
      return new Response('written');
    } catch (error) {
      return new Response(String(error), { status: String(error).includes('twice at once') ? 599 : 503 });
    }
  },
  async queue(batch, env) {
    await env.COUNTER.getByName('heard').note(batch.messages.map((message) => message.body));
  },
};
