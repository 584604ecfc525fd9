// TLS inside `connect()`, for a worker whose sockets leave through the egress cell: workerd does TLS
// on sockets of its own network alone. What is asked for with `secureTransport` goes out under a name
// that says so; the egress cell does the TLS and tells how it went. Evaluated before the worker's own
// code, in its isolate: `cloudflare:sockets`, `node:net` and `node:tls` all stand on this `connect`.
//
// A socket that may be upgraded sends frames (kind, length, content) until it is, and says when it
// wants to read: while something is being read no socket can be upgraded. The answer to an upgrade begins with a number that only the egress cell was told, so that nobody on the way can put
// bytes in clear where those under TLS are expected.
import inner from 'cloudflare-internal:sockets';

const {
  DataView, Error, IdentityTransformStream, Object, Promise, ReadableStream, Reflect, String, TextDecoder,
  TextEncoder, TypeError, Uint8Array, crypto,
} = globalThis;
const { connect: native, getConnectFailureCode, getReadFailureCode, getWriteFailureCode } = inner;
const printer = console;
const { warn } = console;

const MARKED = 'kythera-tls';
const DATA = 1;
const SECURE = 2;
const WANT = 3;
const END = 4;
const HEAD_BYTES = 5;
const ROOM_BYTES = 32_768;
const NUMBER_BYTES = 16;
const SENTENCE_BYTES_MAX = 1000;
const OPEN = 43;
const CLOSED = 'the egress cell closed the connection';
const EARLY = 'the server spoke before TLS began';
const IGNORE = () => {};
const NOTHING = new Uint8Array(0);

function split(address) {
  const whole = typeof address === 'object' && address !== null ?
    `${address.hostname}:${address.port}` : String(address);
  const at = whole.lastIndexOf(':');
  return at < 1 ? null : { host: whole.slice(0, at), port: whole.slice(at + 1) };
}

// An IPv6 address is no label of a name: its colons become dashes.
function named(host, how) {
  const plain = host.startsWith('[') ? `${host.slice(1, -1).replaceAll(':', '-')}.literal` : host;
  return `${plain}.${how}.${MARKED}`;
}

function frame(kind, content) {
  const whole = new Uint8Array(HEAD_BYTES + content.byteLength);
  whole[0] = kind;
  new DataView(whole.buffer).setUint32(1, content.byteLength);
  whole.set(content, HEAD_BYTES);
  return whole;
}

function joined(first, second) {
  const whole = new Uint8Array(first.byteLength + second.byteLength);
  whole.set(first);
  whole.set(second, first.byteLength);
  return whole;
}

function promised() {
  const made = Promise.withResolvers();
  made.promise.catch(IGNORE); // Whoever never asks is not to be told of a rejection nobody handled.
  return made;
}

// One connection to the egress cell. Who holds its ends changes when it is upgraded: a face each.
class Wire {
  constructor(socket, host, isFramed) {
    this.socket = socket;
    this.host = host;
    this.isFramed = isFramed;
    this.reader = socket.readable.getReader({ mode: 'byob' });
    this.writer = socket.writable.getWriter();
    this.said = NOTHING;
    this.face = null;
    this.unanswered = [];
    socket.closed.catch(IGNORE);
    socket.opened.catch(IGNORE);
  }

  faceWith(face, number) {
    this.face = face;
    this.unanswered.push({ face, number });
  }

  async receive() {
    try {
      for (;;) {
        const { value, done } = await this.reader.read(new Uint8Array(ROOM_BYTES));
        if (done) {
          break;
        }
        await (this.unanswered.length > 0 ? this.judge(value) : this.face.take(value));
      }
      if (this.unanswered.length > 0) {
        const { number } = this.unanswered[0];
        this.fail(new TextDecoder().decode(this.said.subarray(number.byteLength + 1)) || CLOSED);
      } else {
        await this.face.end();
      }
    } catch (error) {
      this.face.broke(error);
      await this.close();
    }
  }

  // The number that is expected, then «+», or «-» and a sentence.
  async judge(value) {
    this.said = joined(this.said, value);
    const [{ face, number }] = this.unanswered;
    const { said } = this;
    const word = said[number.byteLength];
    if (number.some((byte, at) => at < said.byteLength && byte !== said[at])) {
      await this.giveUp(EARLY);
    } else if (word === OPEN) {
      this.unanswered.shift();
      this.said = NOTHING;
      face.open();
      const rest = said.slice(number.byteLength + 1);
      if (rest.byteLength > 0) {
        await (this.unanswered.length > 0 ? this.judge(rest) : this.face.take(rest));
      }
    } else if (said.byteLength > number.byteLength + SENTENCE_BYTES_MAX) {
      await this.giveUp(CLOSED);
    }
  }

  async giveUp(why) {
    this.fail(why);
    await this.close();
  }

  fail(why) {
    const [{ number }] = this.unanswered;
    const what = number.byteLength > 0 ? 'startTls' : 'connect';
    Reflect.apply(warn, printer, [`outbound ${what} failed: ${why}`]);
    const error = new Error(`Outbound ${what} failed: ${why}.`);
    this.unanswered.forEach(({ face }) => face.broke(error));
  }

  async send(bytes) {
    await this.writer.write(this.isFramed ? frame(DATA, bytes) : bytes);
  }

  async upgrade(number, host) {
    await this.writer.write(frame(SECURE, joined(number, new TextEncoder().encode(host))));
    this.isFramed = false;
  }

  async want() {
    await this.writer.write(frame(WANT, NOTHING));
  }

  // Half of the way alone: what comes in may go on.
  async finish() {
    await (this.isFramed ? this.writer.write(frame(END, NOTHING)) : this.writer.close());
  }

  async close() {
    await this.socket.close().catch(IGNORE);
  }
}

// What comes in, handed on as it comes.
class Flow {
  #through = new IdentityTransformStream();
  readable = this.#through.readable;
  #writer = this.#through.writable.getWriter();

  constructor() {
    this.#writer.closed.catch(IGNORE);
  }

  // Whoever has cancelled reads nothing more.
  async give(bytes) {
    await this.#writer.write(bytes).catch(IGNORE);
  }

  end() {
    this.#writer.close().catch(IGNORE);
  }

  fail(error) {
    this.#writer.abort(error).catch(IGNORE);
  }
}

// What comes in, asked for by whoever reads.
class Wanted {
  #controller;
  #due = null;
  #hasEnded = false;

  constructor(want) {
    const pull = async () => {
      if (this.#hasEnded) {
        this.#close();
        return;
      }
      this.#due = promised();
      want();
      await this.#due.promise;
    };
    const start = (controller) => { this.#controller = controller; };
    this.readable = new ReadableStream({ type: 'bytes', start, pull }, { highWaterMark: 0 });
  }

  give(bytes) {
    this.#controller.enqueue(bytes);
    this.#due.resolve();
  }

  end() {
    this.#hasEnded = true;
    if (this.#due !== null) {
      this.#close();
      this.#due.resolve();
    }
  }

  fail(error) {
    this.#controller.error(error);
    this.#due?.resolve();
  }

  #close() {
    this.#controller.close();
    this.#controller.byobRequest?.respond(0);
  }
}

// What a worker sees of a wire until it is upgraded: two streams and two promises.
class Face {
  outgoing = new IdentityTransformStream();
  opened = promised();
  closed = promised();
  next = null;

  constructor(wire, number, isHalfOpenAllowed) {
    this.wire = wire;
    this.isHalfOpenAllowed = isHalfOpenAllowed;
    const want = () => this.opened.promise.then(() => wire.want()).catch(IGNORE);
    this.incoming = wire.isFramed && number === NOTHING ? new Wanted(want) : new Flow();
    this.from = this.outgoing.readable.getReader({ mode: 'byob' });
    this.from.closed.catch(IGNORE);
    wire.faceWith(this, number);
    this.sent = this.send();
  }

  open() {
    this.opened.resolve({ remoteAddress: this.wire.host });
  }

  async take(bytes) {
    await this.incoming.give(bytes);
  }

  async send() {
    try {
      await this.opened.promise;
      for (;;) {
        const { value, done } = await this.from.read(new Uint8Array(ROOM_BYTES));
        if (done) {
          break;
        }
        await this.wire.send(value);
      }
      await (this.next ? this.wire.upgrade(this.next.number, this.next.host) : this.wire.finish());
    } catch (error) {
      this.broke(error);
      this.next?.face.broke(error);
      await this.wire.close();
    }
  }

  // The last face goes out behind all that was written to this one.
  upgrade(host) {
    const last = this.outgoing.writable.getWriter();
    const number = crypto.getRandomValues(new Uint8Array(NUMBER_BYTES));
    const face = new Face(this.wire, number, this.isHalfOpenAllowed);
    this.next = { face, number, host };
    last.close().catch(IGNORE);
    this.incoming.fail(new Error('This socket was upgraded to TLS.'));
    this.closed.resolve();
    return face;
  }

  async end() {
    this.incoming.end();
    if (this.isHalfOpenAllowed) {
      await this.sent;
    } else {
      await this.wire.close();
      this.from.cancel().catch(IGNORE);
    }
    this.closed.resolve();
  }

  async close() {
    if (!this.outgoing.writable.locked) {
      this.outgoing.writable.close().catch(IGNORE);
      await this.sent;
    }
    await this.wire.close();
    this.incoming.end();
    this.closed.resolve();
  }

  broke(error) {
    this.opened.reject(error);
    this.closed.reject(error);
    this.incoming.fail(error);
    this.from.cancel(error).catch(IGNORE);
  }
}

class Socket {
  #face;
  #secureTransport;

  constructor(face, secureTransport) {
    this.#face = face;
    this.#secureTransport = secureTransport;
  }

  static isOurs(socket) { return #face in socket; }

  get readable() { return this.#face.incoming.readable; }

  get writable() { return this.#face.outgoing.writable; }

  get opened() { return this.#face.opened.promise; }

  get closed() { return this.#face.closed.promise; }

  get upgraded() { return this.#face.next !== null; }

  get secureTransport() { return this.#secureTransport; }

  async close() {
    if (!this.upgraded) {
      await this.#face.close();
    }
  }

  startTls(options) {
    if (this.#secureTransport === 'on') {
      throw new TypeError('Cannot startTls on a TLS socket.');
    }
    if (this.upgraded) {
      throw new TypeError('startTls has already been called on this socket.');
    }
    const host = String(options?.expectedServerHostname ?? '');
    return new Socket(this.#face.upgrade(host), 'on');
  }
}

function connect(address, options) {
  const how = options?.secureTransport;
  const found = how === 'on' || how === 'starttls' ? split(address) : null;
  if (found === null) {
    return Reflect.apply(native, inner, [address, options]); // workerd says what is wrong with it, if something is.
  }
  const name = `${named(found.host, how)}:${found.port}`;
  const socket = Reflect.apply(native, inner, [name, { allowHalfOpen: true }]);
  const wire = new Wire(socket, found.host, how === 'starttls');
  const face = new Face(wire, NOTHING, options.allowHalfOpen === true);
  wire.receive();
  return new Socket(face, how);
}

inner.connect = connect;
// node:net asks for an error's code, which only sockets of workerd's own have.
const codes = { getConnectFailureCode, getReadFailureCode, getWriteFailureCode };
for (const [name, ofNative] of Object.entries(codes)) {
  inner[name] = (socket) => (Socket.isOurs(socket) ? undefined : Reflect.apply(ofNative, inner, [socket]));
}
