// D1: each path is a step; what comes back is the answer without what only the moment makes.
async function told(work) {
  try {
    return await work();
  } catch (error) {
    return { error: error.message, cause: error.cause?.message };
  }
}

function bare({ success, results, meta }) {
  const { changes, last_row_id, changed_db, rows_read, rows_written } = meta;
  return { success, results, meta: { changes, last_row_id, changed_db, rows_read, rows_written } };
}

const STEPS = {
  '/make': (db) => db.exec('CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b REAL)\nCREATE INDEX i ON t (b)')
    .then(({ count }) => count),
  '/insert': (db) => db.prepare('INSERT INTO t (a, b) VALUES (?1, ?2), (?3, NULL)').bind('x', 1.5, 'é;').run().then(bare),
  '/returning': (db) => db.prepare('INSERT INTO t (a) VALUES (?) RETURNING *').bind("it's").all().then(bare),
  '/select': (db) => db.prepare('SELECT * FROM t ORDER BY id').all().then(bare),
  '/first': async (db) => [
    await db.prepare('SELECT a, b FROM t WHERE id = ?').bind(1).first(),
    await db.prepare('SELECT a, b FROM t WHERE id = ?').bind(1).first('b'),
    await db.prepare('SELECT a FROM t WHERE id = 99').first(),
  ],
  '/raw': async (db) => [
    await db.prepare('SELECT id, a FROM t').raw(),
    await db.prepare('SELECT id, a FROM t WHERE 0').raw({ columnNames: true }),
    await db.prepare('SELECT 1 AS n, 2 AS n').raw({ columnNames: true }),
  ],
  '/same': (db) => db.prepare('SELECT 1 AS n, 2 AS n').all().then(({ results }) => results),
  '/types': (db) => db.prepare('SELECT ?1 AS i, ?2 AS r, ?3 AS t, ?4 AS n, ?5 AS y, ?6 AS b, ?7 AS big')
    .bind(42, 0.1, 'ü', null, true, new Uint8Array([0, 255]), 2 ** 53).first(),
  '/batch': async (db) => (await db.batch([
    db.prepare('UPDATE t SET b = b + ?').bind(1), db.prepare('SELECT SUM(b) AS s FROM t'),
    db.prepare('DELETE FROM t WHERE a = ?').bind('nobody'),
  ])).map(bare),
  '/atomic': async (db) => [
    await told(() => db.batch([
      db.prepare("INSERT INTO t (a) VALUES ('new')"), db.prepare("INSERT INTO t (a) VALUES ('x')"),
    ])),
    await db.prepare('SELECT COUNT(*) AS n FROM t').first('n'),
  ],
  '/session': async (db) => {
    const session = db.withSession('first-primary');
    const before = session.getBookmark();
    const { results } = await session.prepare('SELECT 1 AS n').all();
    return { before, results, after: typeof session.getBookmark() };
  },
  '/errors': async (db) => {
    const sql = (text, ...values) => told(() => db.prepare(text).bind(...values).all());
    return [
      await sql('SELECT * FROM nowhere'), await sql('SELEC 1'), await sql('SELECT ?'), await sql('SELECT 1', 2),
      await sql('-- nothing'), await sql('BEGIN'), await sql("ATTACH 'f' AS f"), await sql('SELECT nothing FROM t'),
      await told(() => db.prepare('SELECT 1 AS n').first('m')),
      await told(() => db.prepare('SELECT ?').bind(undefined).all()),
      await told(() => db.prepare('SELECT ?').bind(1n).all()),
      await told(() => db.prepare('SELECT ?').bind({}).all()),
      await told(() => db.exec('INSERT INTO nowhere VALUES (1)')),
    ];
  },
  '/dump': (db) => db.dump(),
  '/trigger': async (db) => {
    await db.prepare('CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET b = 7 WHERE id = new.id; END').run();
    return [
      await db.prepare("INSERT INTO t (a) VALUES ('triggered')").run().then(bare),
      await db.prepare("SELECT b FROM t WHERE a = 'triggered'").first('b'),
    ];
  },
  '/functions': (db) => db.prepare(
    `SELECT json_extract('{"a":[1,2]}', '$.a[1]') AS j, upper('ä') AS u, strftime('%Y', 0, 'unixepoch') AS y,
      printf('%05.1f', 2.25) AS p, typeof(1e400) AS inf, sqrt(16) AS root`,
  ).first(),
};

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const found = await told(() => STEPS[pathname](env.DB));
    return Response.json({ found: found === undefined ? null : found });
  },
};
