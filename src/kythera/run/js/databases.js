// The door of D1: asked over one socket by cells, which show a pass to one database, and by the API.
// A database is one object of workerd's own D1 (`bundled-d1.js`); here is what it leaves to others:
// who may ask, which databases there are, several statements in one text, and how long it took.
import { D1Database } from './bundled-d1.js';

const PASS = 'x-kythera-pass';
const PASS_CHARACTERS_MAX = 4096;
const PASSES_KEPT_MAX = 4096;
const BOOKMARK = 'x-cf-d1-session-commit-token';
const FIRST_WORDS = ['first-primary', 'first-unconstrained'];
const MARK = 'kythera';

const verified = new Map();
let key;

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// -- who asks ------------------------------------------------------------------------------------

function bytesOf(text) {
  return Uint8Array.fromBase64(text, { alphabet: 'base64url' });
}

async function isOurs(payload, mac, env) {
  const raw = new TextEncoder();
  key ??= await crypto.subtle.importKey(
    'raw', raw.encode(env.KEY), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'],
  );
  const right = new Uint8Array(await crypto.subtle.sign('HMAC', key, raw.encode(payload)));
  // Compared as text: of several ways to write the same bytes one alone is good.
  const wanted = raw.encode(right.toBase64({ alphabet: 'base64url', omitPadding: true }));
  const shown = raw.encode(mac);
  return wanted.length === shown.length && crypto.subtle.timingSafeEqual(wanted, shown);
}

async function passOf(request, env) {
  const text = request.headers.get(PASS) ?? '';
  let pass = verified.get(text);
  if (pass === undefined) {
    const [payload, mac = ''] = text.length > PASS_CHARACTERS_MAX ? [''] : text.split('.', 2);
    if (text !== `${payload}.${mac}` || !await isOurs(payload, mac, env)) {
      throw new Refused(403, 'This is not a pass to a database of this machine.');
    }
    pass = JSON.parse(new TextDecoder().decode(bytesOf(payload)));
    if (verified.size >= PASSES_KEPT_MAX) {
      verified.delete(verified.keys().next().value);
    }
    verified.set(text, pass);
  }
  if (pass.store !== 'd1') {
    throw new Refused(403, 'This is a pass to another store.');
  }
  return pass;
}

// -- statements ----------------------------------------------------------------------------------

const TOKEN = /--[^\n]*|\/\*[^]*?(?:\*\/|$)|'(?:[^']|'')*'?|"(?:[^"]|"")*"?|`(?:[^`]|``)*`?|\[[^\]]*\]?|[\w$\u0080-\uffff]+|[^]/gy;
const COMMENT = /^(?:--|\/\*)/;
const TRIGGER = /^(?:explain )?(?:query plan )?create (?:temp |temporary )?trigger /;

// Yields the statements of a text. The semicolons inside a trigger end nothing; `END;` after one does.
export function* statements(text) {
  let [begin, head, words, last, before] = [0, '', 0, '', ''];
  TOKEN.lastIndex = 0;
  for (let match = TOKEN.exec(text); match !== null; match = TOKEN.exec(text)) {
    const [token] = match;
    if (/^\s/.test(token) || COMMENT.test(token)) {
      continue;
    }
    const word = token.toLowerCase();
    const inside = TRIGGER.test(head) && !(last === 'end' && before === ';');
    if (word === ';' && !inside) {
      if (words > 0) {
        yield text.slice(begin, match.index);
      }
      [begin, head, words, last, before] = [TOKEN.lastIndex, '', 0, '', ''];
      continue;
    }
    words += 1;
    head = words <= 6 ? `${head}${word} ` : head;
    [before, last] = [last, word];
  }
  if (words > 0) {
    yield text.slice(begin);
  }
}

// -- a database ----------------------------------------------------------------------------------

export class Database extends D1Database {
  #made;

  constructor(ctx, env) {
    super(ctx, env);
    this.#made = ctx.storage.kv.get(MARK) !== undefined;
  }

  create() {
    this.ctx.storage.kv.put(MARK, { version: 1 });
    this.#made = true;
    return this.info();
  }

  info() {
    this.#check();
    const tables = this.ctx.storage.sql.exec(
      "SELECT COUNT(*) AS n FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\'"
      + " AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    ).one().n;
    return { file_size: this.ctx.storage.sql.databaseSize, num_tables: tables };
  }

  async destroy() {
    this.#made = false;
    await this.ctx.storage.deleteAll();
    return this.ctx.id.toString();
  }

  leave() {
    this.ctx.abort('deleted');
  }

  run(queries, bookmarked) {
    this.#check();
    const { sql } = this.ctx.storage;
    return this.ctx.storage.transactionSync(() => {
      const before = sql.databaseSize;
      const answer = super.run(queries, bookmarked);
      this.#refuseGrown(before);
      return answer;
    });
  }

  runText(texts, params) {
    const found = [...statements(texts)].map((sql) => ({ sql }));
    if (params?.length > 0 && found.length > 1) {
      throw new Error('Parameters go with one statement; send several as `batch`, each with its own.');
    }
    return this.run(found.map((query) => ({ ...query, params })), true);
  }

  // What may be larger than an RPC call holds (32 MiB).
  async fetch(request) {
    try {
      this.#check();
      if (new URL(request.url).pathname === '/import') {
        return Response.json(this.#take(await request.text()));
      }
      const { no_schema: noSchema, no_data: noData, tables } = await request.json();
      return new Response([...super.dump(noSchema, noData, ...tables), ''].join('\n'));
    } catch (error) {
      return Response.json({ error: error.message }, { status: 400 });
    }
  }

  #take(text) {
    const { sql } = this.ctx.storage;
    const totals = { num_queries: 0, rows_read: 0, rows_written: 0 };
    this.ctx.storage.transactionSync(() => {
      const before = sql.databaseSize;
      for (const statement of statements(text)) {
        const cursor = sql.exec(statement);
        cursor.toArray();
        totals.num_queries += 1;
        totals.rows_read += cursor.rowsRead;
        totals.rows_written += cursor.rowsWritten;
      }
      this.#refuseGrown(before);
    });
    return { ...totals, size_after: sql.databaseSize };
  }

  dump(...options) {
    this.#check();
    return super.dump(...options);
  }

  #check() {
    if (!this.#made) {
      throw new Error('This database is not here: it was deleted, or another machine keeps it.');
    }
  }

  #refuseGrown(before) {
    const size = this.ctx.storage.sql.databaseSize;
    if (size > before && size > this.env.LIMITS.d1_database_bytes_max) {
      throw new Error('Exceeded maximum DB size: SQLITE_FULL');
    }
  }
}

// -- what a cell asks ----------------------------------------------------------------------------

function objects({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((column, index) => [column, row[index]])));
}

function answersOf({ results }, milliseconds, asArrays) {
  // Together they took as long; SQLite's own clock stands still while it works.
  const duration = milliseconds / Math.max(results.length, 1);
  return results.map(({ columns, rows, meta }) => ({
    success: true,
    results: asArrays ? { columns, rows } : objects({ columns, rows }),
    meta: { ...meta, served_by: 'kythera', duration, timings: { sql_duration_ms: duration } },
  }));
}

function bookmarkOf(request) {
  const sent = request.headers.get(BOOKMARK)?.trim() ?? '';
  if (sent !== '' && !FIRST_WORDS.includes(sent) && !/^[0-9a-f]{12}-[0-9a-f]{8}$/.test(sent)) {
    throw new Error(`Invalid bookmark: ${sent.slice(0, 100)}`);
  }
  return sent;
}

const uses = new Map();
let counting;

function noteUse({ account, worker }, answer) {
  const name = `${account}/${worker}`;
  let use = uses.get(name);
  if (use === undefined) {
    use = { account, worker, counts: { calls: 0, failed: 0, rows_read: 0, rows_written: 0 } };
    uses.set(name, use);
  }
  use.counts.calls += 1;
  use.counts.failed += answer === undefined;
  for (const { meta } of answer?.results ?? []) {
    use.counts.rows_read += meta.rows_read;
    use.counts.rows_written += meta.rows_written;
  }
}

async function query(request, url, database, pass) {
  const asArrays = url.searchParams.get('resultsFormat') === 'ROWS_AND_COLUMNS';
  try {
    const sent = bookmarkOf(request);
    const asked = await request.json();
    const begun = Date.now();
    const answer = await database.run(Array.isArray(asked) ? asked : [asked], sent !== '');
    noteUse(pass, answer);
    const headers = answer.bookmark === undefined ? {} : { [BOOKMARK]: answer.bookmark };
    return Response.json(answersOf(answer, Date.now() - begun, asArrays), { headers });
  } catch (error) {
    noteUse(pass);
    return Response.json({ success: false, error: error.message });
  }
}

// -- what the API asks, and nobody else ----------------------------------------------------------

async function timed(work, asArrays) {
  const begun = Date.now();
  const answer = await work;
  const took = Date.now() - begun;
  return { answers: answersOf(answer, took, asArrays), bookmark: answer.bookmark };
}

const ACTIONS = {
  '/create': (request, database) => database.create(),
  '/info': (request, database) => database.info(),
  async '/delete'(request, database) {
    const id = await database.destroy();
    await database.leave().catch(() => {}); // It ends with the object.
    return { id };
  },
  async '/sql'(request, database) {
    const { sql, params, batch, as_arrays: asArrays } = await request.json();
    const work = batch === undefined ? database.runText(sql, params) : database.run(batch, true);
    return timed(work, asArrays);
  },
};
const STREAMED = ['/import', '/export'];

async function act(request, url, database) {
  if (STREAMED.includes(url.pathname)) {
    return database.fetch(request);
  }
  const action = ACTIONS[url.pathname];
  if (action === undefined || request.method !== 'POST') {
    throw new Refused(404, 'There is no such action.');
  }
  try {
    return Response.json(await action(request, database));
  } catch (error) {
    return Response.json({ error: error.message }, { status: 400 });
  }
}

export default {
  async fetch(request, env) {
    try {
      const pass = await passOf(request, env);
      if (pass.resource === '') {
        counting ??= crypto.randomUUID();
        return Response.json({ process: counting, workers: [...uses.values()] });
      }
      const database = env.DATABASE.get(env.DATABASE.idFromName(`${pass.account}/${pass.resource}`));
      const url = new URL(request.url);
      if (pass.worker === '') {
        return await act(request, url, database);
      }
      if (!['/query', '/execute'].includes(url.pathname)) {
        throw new Refused(404, 'dump() was of the alpha databases alone: use wrangler d1 export.');
      }
      return await query(request, url, database, pass);
    } catch (error) {
      const status = error instanceof Refused ? error.status : 500;
      return Response.json({ success: false, error: error.message }, { status });
    }
  },
};
