// D1: statements, types, batches, what is refused.
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

export default {
  async fetch(request, { DB }) {
    await DB.exec('DROP TABLE IF EXISTS people');
    const made = await DB.exec('CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT NOT NULL, size REAL, photo BLOB)');
    const insert = DB.prepare('INSERT INTO people (name, size, photo) VALUES (?1, ?2, ?3)');
    const inserted = await insert.bind('Ada', 1.7, new Uint8Array([1, 2])).run();
    await DB.batch([insert.bind('Bob', null, null), insert.bind('Çem', 2, new Uint8Array([3]).buffer)]);
    const all = await DB.prepare('SELECT * FROM people ORDER BY id').all();
    const failed = await tried(() => DB.batch([insert.bind('Eve', 1, null), insert.bind(null, 1, null)]));
    return Response.json({
      made: made.count,
      inserted: [inserted.success, inserted.meta.changes, inserted.meta.last_row_id, inserted.meta.changed_db],
      all: all.results, success: all.success, meta: Object.keys(all.meta).sort(),
      first: await DB.prepare('SELECT name, size FROM people WHERE id = ?').bind(1).first(),
      column: await DB.prepare('SELECT name FROM people WHERE id = ?').bind(2).first('name'),
      none: await DB.prepare('SELECT name FROM people WHERE id = 99').first(),
      raw: await DB.prepare('SELECT id, name FROM people LIMIT 2').raw(),
      columns: await DB.prepare('SELECT id, name FROM people LIMIT 1').raw({ columnNames: true }),
      failed, after: await DB.prepare('SELECT count(*) AS n FROM people').first('n'),
      syntax: await tried(() => DB.prepare('SELEC 1').all()),
      table: await tried(() => DB.prepare('SELECT * FROM nowhere').all()),
      unbound: await tried(() => DB.prepare('SELECT ?').bind(undefined).all()),
      object: await tried(() => DB.prepare('SELECT ?').bind({ a: 1 }).all()),
      few: await tried(() => DB.prepare('SELECT ?, ?').bind(1).all()),
      columnMissing: await tried(() => DB.prepare('SELECT 1 AS a').first('b')),
      large: await DB.prepare('SELECT 9007199254740993 AS n, 0.1 + 0.2 AS f, true AS t').first(),
      json: await DB.prepare("SELECT json_extract('{\"a\": [1, 2]}', '$.a[1]') AS x").first('x'),
      changes: (await DB.prepare('UPDATE people SET size = 0').run()).meta.changes,
      returning: (await DB.prepare("INSERT INTO people (name) VALUES ('Zoe') RETURNING id, name").all()).results,
    });
  },
};
