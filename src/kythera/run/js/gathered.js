// The queues' engine writes and removes each message with a statement of its own. Here those that come
// one after the other become one. What it asks between them sees all that was written before, and
// all of it is in the same transaction. Statements are known by their whole text: an engine that
// says them otherwise is slower, and as right.
const INSERT = 'INSERT INTO messages (id, format, body, size, timestamp, visible_at) VALUES (?, ?, ?, ?, ?, ?)';
const INSERT_ALL = 'INSERT INTO messages (id, format, body, size, timestamp, visible_at)'
  + ' SELECT value->>0, value->>1, substr(?, value->>2, value->>3), value->>3, value->>4, value->>5'
  + ' FROM json_each(?) ORDER BY key';
const LEASE = 'UPDATE messages SET lease = ?, leased_until = ? ';
const DELETE = 'DELETE FROM messages WHERE seq = ? AND lease = ? RETURNING size';
const DELETE_ALL = 'DELETE FROM messages WHERE lease = ? RETURNING seq, size';

// Returns several arrays of bytes as one.
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.byteLength, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.byteLength;
  }
  return whole;
}

// Stands in the place of an object's `storage.sql`, for the engine.
export class Gathered {
  #sql;
  // Messages to be written.
  #new = [];
  // Leases of which everything will be removed; and of those that were, what the engine has not asked
  // for yet: sizes by number.
  #settled = new Set();
  #removed = new Map();

  // The lease that was taken last.
  lease;

  constructor(sql) {
    this.#sql = sql;
  }

  // Says that all that is under a lease will be removed.
  settle(lease) {
    this.#settled.add(lease);
  }

  exec(text, ...given) {
    if (text === INSERT) {
      this.#new.push(given);
      return [];
    }
    this.flush();
    if (text === DELETE && (this.#settled.has(given[1]) || this.#removed.has(given[1]))) {
      return this.#taken(...given);
    }
    if (text.startsWith(LEASE)) {
      [this.lease] = given;
    }
    return this.#sql.exec(text, ...given);
  }

  // Writes what was gathered.
  flush() {
    const rows = this.#new;
    if (rows.length === 0) {
      return;
    }
    this.#new = [];
    if (rows.length === 1) {
      this.#sql.exec(INSERT, ...rows[0]);
      return;
    }
    let at = 1;
    const told = rows.map(([id, format, , size, timestamp, visible]) => {
      at += size;
      return [id, format, at - size, size, timestamp, visible];
    });
    const bodies = rows.map(([, , body]) => (body instanceof ArrayBuffer ? new Uint8Array(body) : body));
    this.#sql.exec(INSERT_ALL, joined(bodies), JSON.stringify(told));
  }

  #taken(seq, lease) {
    if (this.#settled.delete(lease)) {
      const rows = this.#sql.exec(DELETE_ALL, lease).toArray();
      this.#removed.set(lease, new Map(rows.map((row) => [row.seq, row.size])));
    }
    const sizes = this.#removed.get(lease);
    const size = sizes.get(seq);
    sizes.delete(seq);
    if (sizes.size === 0) {
      this.#removed.delete(lease);
    }
    return size === undefined ? [] : [{ size }];
  }
}
