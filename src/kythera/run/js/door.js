// Stands before workerd's asset service, which knows neither ranges nor the content types that the
// uploader chose for names it cannot guess. Everything else passes through untouched, streams and
// WebSockets too. Memory stays flat: a range is cut from the stream as it flows by.
const ASSET_ETAG = /^"[0-9a-f]+-[0-9a-f]+-[0-9a-f]+"$/;
const BUFFER_BYTES = 65536;
const RANGE = /^bytes=(\d*)-(\d*)$/;

// The one range asked for, as [first, end) within `length` bytes; `null`: not satisfiable;
// `undefined`: ignore the header (several ranges, another unit, nonsense).
function rangeOf(header, length) {
  const found = RANGE.exec(header.trim());
  if (found === null || (found[1] === '' && found[2] === '')) {
    return undefined;
  }
  if (found[1] === '') {
    const last = Number(found[2]);
    return last === 0 || length === 0 ? null : [Math.max(0, length - last), length];
  }
  const first = Number(found[1]);
  const end = found[2] === '' ? length : Math.min(Number(found[2]) + 1, length);
  if (found[2] !== '' && Number(found[2]) < first) {
    return undefined;
  }
  return first < length ? [first, end] : null;
}

// `If-Range` holds a validator: the range counts only if what it validates is still there.
function mayCut(request, response) {
  const etag = response.headers.get('etag');
  const length = response.headers.get('content-length');
  if (response.status !== 200 || response.body === null || length === null || etag === null ||
      etag.startsWith('W/') || response.headers.has('content-encoding')) {
    return false;
  }
  const condition = request.headers.get('if-range');
  return condition === null || condition === etag ||
    condition === response.headers.get('last-modified');
}

// Passes `body` on from `first` to `end`, through one buffer: a stream of fresh ones would be a
// flood of garbage. What reaches to the end of the body is left to workerd's own pump.
async function copy(body, writable, [first, end], length) {
  const reader = body.getReader({ mode: 'byob' });
  const writer = writable.getWriter();
  let buffer = new ArrayBuffer(BUFFER_BYTES);
  try {
    for (let at = 0; at < end && !(at === first && end === length);) {
      const wanted = Math.min(BUFFER_BYTES, (at < first ? first : end) - at);
      const { done, value } = await reader.read(new Uint8Array(buffer, 0, wanted));
      if (done) {
        break;
      }
      if (at >= first) {
        await writer.write(value);
      }
      at += value.byteLength;
      buffer = value.buffer;
    }
    if (end === length) {
      reader.releaseLock();
      writer.releaseLock();
      await body.pipeTo(writable);
    } else {
      await writer.close();
      await reader.cancel();
    }
  } catch (error) {
    // Whoever asked has gone, or the file could not be read: neither leaves anybody to tell.
    await Promise.allSettled([reader.cancel(error), writer.abort(error)]);
  }
}

function unsatisfiable(response, length) {
  const headers = new Headers(response.headers);
  headers.delete('content-type');
  headers.set('content-range', `bytes */${length}`);
  headers.set('content-length', '0');
  response.body.cancel().catch(() => {});
  return new Response(null, { status: 416, headers });
}

function cut(request, response, ctx) {
  const length = Number(response.headers.get('content-length'));
  const range = rangeOf(request.headers.get('range'), length);
  if (range === undefined) {
    return response;
  }
  if (range === null) {
    return unsatisfiable(response, length);
  }
  const [first, end] = range;
  const headers = new Headers(response.headers);
  headers.set('content-range', `bytes ${first}-${end - 1}/${length}`);
  headers.set('accept-ranges', 'bytes');
  const { readable, writable } = new FixedLengthStream(end - first);
  ctx.waitUntil(copy(response.body, writable, range, length));
  return new Response(readable, { status: 206, headers });
}

// A file's type as it was uploaded, for names whose type workerd does not know.
function typeFor(request, response, types) {
  if (response.headers.has('content-type') || !ASSET_ETAG.test(response.headers.get('etag'))) {
    return undefined;
  }
  const path = new URL(request.url).pathname;
  const name = path.slice(path.lastIndexOf('/') + 1);
  const dot = name.lastIndexOf('.');
  return types.paths[path] ?? types.extensions[dot < 0 ? '' : name.slice(dot + 1).toLowerCase()];
}

async function ask(request, env, ctx) {
  let response = await env.NEXT.fetch(request);
  const type = env.TYPES === null ? undefined : typeFor(request, response, env.TYPES);
  if (type !== undefined) {
    response = new Response(response.body, response);
    response.headers.set('content-type', type);
  }
  if (request.method === 'GET' && request.headers.has('range') && mayCut(request, response)) {
    return cut(request, response, ctx);
  }
  return response;
}

function worker(env) {
  if (env.WORKER === undefined) {
    throw new TypeError('The worker has static files alone: it has no methods.');
  }
  return env.WORKER;
}

export default {
  // What other workers of the account call: see entry.js.
  kytheraDoor: (meta, env) => worker(env).kytheraDoor(meta),
  kytheraFetch: (meta, env) => worker(env).kytheraFetch(meta),
  fetch(request, env, ctx) {
    const untouched = env.TYPES === null && !request.headers.has('range');
    return untouched ? env.NEXT.fetch(request) : ask(request, env, ctx);
  },
};
