// Durable Objects: storage, SQL, RPC, alarms, names and ids.
import { DurableObject } from 'cloudflare:workers';
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

export class Counter extends DurableObject {
  async add(by = 1) {
    const value = ((await this.ctx.storage.get('value')) ?? 0) + by;
    await this.ctx.storage.put('value', value);
    return value;
  }
  async fetch(request) {
    return Response.json({ path: new URL(request.url).pathname, method: request.method, body: await request.text() });
  }
  async keys() {
    const { storage } = this.ctx;
    await storage.deleteAll();
    await storage.put({ b: 1, a: { deep: [1, new Date(0)] }, c: 3n });
    const rolled = await tried(() => storage.transaction(async (txn) => { await txn.put('d', 4); txn.rollback(); }));
    return {
      list: [...(await storage.list())].map(([key, value]) => [key, typeof value]),
      reverse: [...(await storage.list({ reverse: true, limit: 2 })).keys()],
      between: [...(await storage.list({ start: 'b', end: 'c' })).keys()],
      several: [...(await storage.get(['a', 'z']))].map(([key]) => key),
      deleted: [await storage.delete('a'), await storage.delete('a')],
      rolled, after: (await storage.get('d')) ?? null,
      long: await tried(() => storage.put('k'.repeat(3000), 1)),
    };
  }
  sql() {
    const { sql } = this.ctx.storage;
    sql.exec('DROP TABLE IF EXISTS t; CREATE TABLE t (a INTEGER, b TEXT)');
    sql.exec('INSERT INTO t VALUES (?, ?), (?, ?)', 1, 'x', 2, null);
    const cursor = sql.exec('SELECT * FROM t ORDER BY a');
    return {
      columns: cursor.columnNames, rows: cursor.toArray(), one: sql.exec('SELECT count(*) AS n FROM t').one(),
      raw: [...sql.exec('SELECT a FROM t').raw()], written: sql.exec("INSERT INTO t VALUES (3, 'z')").rowsWritten > 0,
    };
  }
  async broken() {
    throw new RangeError('inside the object');
  }
  async later() {
    await this.ctx.storage.setAlarm(Date.now() + 50);
    return (await this.ctx.storage.getAlarm()) > 0;
  }
  async alarm() {
    await this.ctx.storage.put('rang', true);
  }
  async rang() {
    return (await this.ctx.storage.get('rang')) ?? false;
  }
  who() {
    return this.ctx.id.name ?? null;
  }
}
export default {
  async fetch(request, { COUNTER }) {
    const { pathname } = new URL(request.url);
    const id = COUNTER.idFromName('one');
    const stub = COUNTER.get(id);
    if (pathname === '/fetch') {
      return stub.fetch('http://object/inside', { method: 'POST', body: 'sent' });
    }
    if (pathname === '/alarm') {
      const object = COUNTER.getByName('alarmed');
      const set = await object.later();
      let rang = false;
      for (let look = 0; look < 100 && !rang; look += 1) {
        await scheduler.wait(50);
        rang = await object.rang();
      }
      return Response.json({ set, rang });
    }
    const other = COUNTER.getByName('two');
    const counts = await Promise.all(Array.from({ length: 20 }, () => other.add(2)));
    return Response.json({
      counts: [Math.max(...counts) - Math.min(...counts), new Set(counts).size],
      keys: await COUNTER.getByName('keys').keys(), sql: await COUNTER.getByName('sql').sql(),
      broken: await tried(() => stub.broken()), missing: await tried(() => stub.nothing()),
      same: COUNTER.idFromString(id.toString()).equals(id), name: id.name, stubName: stub.name,
      length: id.toString().length, unique: COUNTER.newUniqueId().equals(COUNTER.newUniqueId()),
      who: await stub.who(), wrong: await tried(() => COUNTER.idFromString('xyz')),
    });
  },
};
