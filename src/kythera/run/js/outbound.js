// Stands between a worker and the machine's egress cell, inside the worker's process but apart from
// its code: what is refused becomes an error that says why, and a line of the worker's own console.
// Who asks is added by workerd itself, to requests alone: for a TCP connection a ticket is asked first.
const MARK = 'x-kythera-refused';
const TICKETS = 'http://egress/';
const MARKED = /\.kythera-tls:\d+$/;
const OPEN = 43;
const SENTENCE_BYTES_MAX = 1000;

function refuse(what, why) {
  console.warn(`outbound ${what} failed: ${why}`);
  return new Error(`Outbound ${what} failed: ${why}.`);
}

async function wordFrom(readable) {
  const reader = readable.getReader({ mode: 'byob' });
  const { value } = await reader.read(new Uint8Array(1));
  if (value?.[0] === OPEN) {
    reader.releaseLock();
    return null;
  }
  let said = '';
  while (said.length < SENTENCE_BYTES_MAX) {
    const { value: more, done } = await reader.read(new Uint8Array(SENTENCE_BYTES_MAX));
    if (done) {
      break;
    }
    said += new TextDecoder().decode(more);
  }
  return said || 'the egress cell closed the connection';
}

async function tunnelTo(address, env) {
  if (env.EGRESS === undefined) {
    throw new Error(env.WHY ?? 'kythera.egress of this worker is "none"');
  }
  const answer = await env.TUNNELS.fetch(TICKETS, { method: 'POST', body: JSON.stringify({ address }) });
  const said = (await answer.text()).trimEnd();
  if (answer.headers.has(MARK)) {
    throw new Error(said);
  }
  return env.TUNNELS.connect(`${said}:1`, { allowHalfOpen: true });
}

async function say(socket, text) {
  const writer = socket.writable.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
}

export default {
  async fetch(request, env) {
    if (env.EGRESS === undefined) {
      throw refuse('fetch', 'kythera.egress of this worker is "none"');
    }
    const response = await env.EGRESS.fetch(request);
    if (response.headers.has(MARK)) {
      throw refuse('fetch', (await response.text()).trimEnd());
    }
    return response;
  },
  async connect(socket, env) {
    const { localAddress: address } = await socket.opened;
    // Sockets that want TLS (sockets.js) read the egress cell's word themselves.
    const isMarked = MARKED.test(address);
    try {
      const through = await tunnelTo(address, env);
      const why = isMarked ? null : await wordFrom(through.readable);
      if (why !== null) {
        throw new Error(why);
      }
      await Promise.allSettled([
        socket.readable.pipeTo(through.writable),
        through.readable.pipeTo(socket.writable),
      ]);
    } catch (error) {
      if (!isMarked) {
        throw refuse('connect', error.message);
      }
      await say(socket, `-${error.message}`);
    }
  },
};
