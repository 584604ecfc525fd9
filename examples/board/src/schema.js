// The tables, made once for each process; making them again changes nothing.

let made;

export function migrate(db) {
  made ??= db
    .batch([
      db.prepare("CREATE TABLE IF NOT EXISTS people (name TEXT PRIMARY KEY, posts INTEGER NOT NULL DEFAULT 0, visited INTEGER NOT NULL DEFAULT 0)"),
      db.prepare("CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, recipient TEXT, text TEXT)"),
    ])
    .catch((error) => {
      made = undefined;
      throw error;
    });
  return made;
}
