// How bytes pass through the egress cell: counted, with an end to waiting, and with TLS where a
// worker's socket asked for it (sockets.js): at once, or in the middle of what is said. TLS is this
// cell's, with the same checks as for `https:`; what was said before it never counts as said under it.
const HEAD_BYTES = 5; // of a frame: its kind, its length
const DATA = 1;
const SECURE = 2;
const WANT = 3;
const END = 4;
const NUMBER_BYTES = 16;
export const CHUNK_BYTES = 32768;
const REASONS_KEPT_MAX = 256;
const REASON_MS = 500;
const REASON_POLL_MS = 10;
const reasons = new Map();

export class Refused extends Error {
  constructor(reason, sentence, status = 403) {
    super(sentence);
    this.reason = reason;
    this.status = status;
  }
}

export function note(counts, reason) {
  counts[reason] = (counts[reason] ?? 0) + 1;
}

// Copies until the end, counting; gives up when nothing moves for `idle_ms`, in either direction of
// those that share `active`. Never rejects: either
// side has gone then, and the other is told by the end of its stream.
export async function pump(from, to, counters, counter, idle_ms, room, active = { moved: 0 }) {
  const reader = from.getReader({ mode: 'byob' });
  const writer = to.getWriter();
  let buffer = new ArrayBuffer(room);
  let seen = -1;
  let isLate = false;
  const end = (error) => Promise.allSettled([reader.cancel(error), writer.abort(error)]);
  const watch = setInterval(() => {
    if (active.moved === seen && !isLate) {
      isLate = true;
      note(counters.failed, 'idle');
      end(new Error(`nothing moved for ${idle_ms} ms`));
    }
    seen = active.moved;
  }, idle_ms);
  try {
    for (;;) {
      const { value, done } = await reader.read(new Uint8Array(buffer));
      if (done) {
        break;
      }
      active.moved += value.byteLength;
      counters[counter] += value.byteLength;
      await writer.write(value);
      buffer = value.buffer.byteLength > 0 ? value.buffer : new ArrayBuffer(room);
    }
    await writer.close();
  } catch (error) {
    await end(error);
  } finally {
    clearInterval(watch);
  }
}

function joined(first, second) {
  const whole = new Uint8Array(first.byteLength + second.byteLength);
  whole.set(first);
  whole.set(second, first.byteLength);
  return whole;
}

export async function write(socket, bytes) {
  const writer = socket.writable.getWriter();
  await writer.write(bytes);
  writer.releaseLock();
}

// Both directions between a cell's socket and the outside.
export class Way {
  constructor(socket, counters, idle_ms) {
    this.socket = socket;
    this.counters = counters;
    this.idle_ms = idle_ms;
    this.active = { moved: 0 };
  }

  async carry(upstream) {
    await Promise.all([this.up(upstream), this.down(upstream)]);
  }

  up(upstream) {
    return this.pump(this.socket.readable, upstream.writable, 'bytes_out');
  }

  down(upstream) {
    return this.pump(upstream.readable, this.socket.writable, 'bytes_in');
  }

  pump(from, to, counter) {
    return pump(from, to, this.counters, counter, this.idle_ms, CHUNK_BYTES, this.active);
  }

  count(counter, bytes) {
    this.active.moved += bytes;
    this.counters[counter] += bytes;
  }
}

// In clear until the worker asks for TLS. What it sends until then are frames (sockets.js), and
// nothing is read for it that it did not want: what is being read cannot be upgraded.
class Clear {
  #isReading = false;

  constructor(way, upstream) {
    this.way = way;
    this.from = way.socket.readable.getReader({ mode: 'byob' });
    this.to = way.socket.writable.getWriter();
    this.reader = upstream.readable.getReader({ mode: 'byob' });
    this.writer = upstream.writable.getWriter();
  }

  // Returns what came with the wish for TLS; null: one of both has ended.
  async carry() {
    let seen = -1;
    const { active, counters, idle_ms } = this.way;
    const watch = setInterval(() => {
      if (active.moved === seen) {
        note(counters.failed, 'idle');
        this.end(new Error(`nothing moved for ${idle_ms} ms`));
      }
      seen = active.moved;
    }, idle_ms);
    try {
      for (;;) {
        const { kind, content } = await this.frame();
        if (kind === SECURE && !this.#isReading) {
          [this.from, this.to, this.reader, this.writer].forEach((end) => end.releaseLock());
          return content;
        }
        await this.follow(kind, content);
      }
    } catch (error) {
      await this.end(error);
      return null;
    } finally {
      clearInterval(watch);
    }
  }

  async frame() {
    const { value: head } = await this.from.readAtLeast(HEAD_BYTES, new Uint8Array(HEAD_BYTES));
    if (head?.byteLength !== HEAD_BYTES) {
      throw new Error('the worker has closed its socket');
    }
    const length = new DataView(head.buffer, head.byteOffset).getUint32(1);
    if (length > CHUNK_BYTES) {
      throw new Error(`a frame of ${length} bytes`);
    }
    const content = new Uint8Array(length);
    return { kind: head[0], content: length ? (await this.from.readAtLeast(length, content)).value : content };
  }

  async follow(kind, content) {
    if (kind === DATA) {
      this.way.count('bytes_out', content.byteLength);
      await this.writer.write(content);
    } else if (kind === END) {
      await this.writer.close();
    } else if (kind === WANT && !this.#isReading) {
      this.#isReading = true;
      this.read().catch((error) => this.end(error));
    } else {
      throw new Error(`a frame of kind ${kind} out of turn`);
    }
  }

  async read() {
    const { value, done } = await this.reader.read(new Uint8Array(CHUNK_BYTES));
    this.#isReading = false;
    if (done) {
      await this.to.close();
      return;
    }
    this.way.count('bytes_in', value.byteLength);
    await this.to.write(value);
  }

  end(error) {
    const { from, reader, to, writer } = this;
    return Promise.allSettled([from.cancel(error), reader.cancel(error), to.abort(error), writer.abort(error)]);
  }
}

export async function upgradable(way, upstream, host, port, ms) {
  const wanted = await new Clear(way, upstream).carry();
  if (wanted === null) {
    return;
  }
  const number = wanted.subarray(0, NUMBER_BYTES);
  const expected = new TextDecoder().decode(wanted.subarray(NUMBER_BYTES));
  const answer = (word) => write(way.socket, joined(number, new TextEncoder().encode(word)));
  let secured;
  try {
    secured = await securedBy(upstream, `${expected || host}:${port}`, expected, ms);
  } catch (error) {
    note(way.counters.failed, error.reason);
    await answer(`-${error.message}`);
    await way.socket.close();
    return;
  }
  await answer('+');
  await way.carry(secured);
}

export async function securedBy(upstream, where, expected, ms) {
  const secured = upstream.startTls(expected ? { expectedServerHostname: expected } : undefined);
  try {
    await opened(secured, ms);
  } catch (error) {
    throw error instanceof Refused ? error : new Refused('tls', await whyTls(where, error), 502);
  }
  return secured;
}

// workerd prints why and hands out a reference; the agent reads the one and tells it with the other.
async function whyTls(where, error) {
  const [, reference] = /reference = (\w+)/.exec(error?.message) ?? [];
  const end = Date.now() + REASON_MS;
  while (reference && !reasons.has(reference) && Date.now() < end) {
    await scheduler.wait(REASON_POLL_MS);
  }
  const why = reasons.get(reference);
  return `TLS with ${where} failed${why === undefined ? '' : `: ${why}`}`;
}

export function noteReason({ reference, why }) {
  if (reasons.size >= REASONS_KEPT_MAX) {
    reasons.delete(reasons.keys().next().value);
  }
  reasons.set(reference, why);
}

export async function opened(socket, ms) {
  const late = new Refused('head_timeout', `no connection within ${ms} ms`, 504);
  let timer;
  const waited = new Promise((_, reject) => { timer = setTimeout(() => reject(late), ms); });
  try {
    await Promise.race([socket.opened, waited]);
  } finally {
    clearTimeout(timer);
  }
}
