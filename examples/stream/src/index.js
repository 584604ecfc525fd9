// Streaming, out and in: events that arrive one by one, and uploads that are answered while they
// are still being sent. Nothing is ever held in memory as a whole.

export default {
  async fetch(request) {
    const url = new URL(request.url);
    switch (`${request.method} ${url.pathname}`) {
      case "GET /":
        return new Response(PAGE, { headers: { "content-type": "text/html; charset=utf-8" } });
      case "GET /clock":
        return clock(number(url, "every_ms", 1000), number(url, "ticks", 60));
      case "POST /count":
        return count(request);
      case "POST /shout":
        return shout(request);
      default:
        return new Response("Try /clock, or POST to /count or /shout.\n", { status: 404 });
    }
  },
};

/** Server-sent events: one tick each `every_ms`, and a last one that says it is over. */
function clock(every_ms, ticks) {
  let cancelled = false;
  const events = new ReadableStream({
    async start(controller) {
      const send = (text) => controller.enqueue(new TextEncoder().encode(text));
      for (let tick = 1; tick <= ticks && !cancelled; tick++) {
        send(`id: ${tick}\nevent: tick\ndata: ${new Date().toISOString()}\n\n`);
        await new Promise((resolve) => setTimeout(resolve, every_ms));
      }
      if (!cancelled) {
        send("event: end\ndata: bye\n\n");
        controller.close();
      }
    },
    cancel() {
      cancelled = true;
    },
  });
  return new Response(events, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
  });
}

/** Count an upload of any size while it passes, without keeping it. */
async function count(request) {
  let bytes = 0;
  let lines = 0;
  let chunks = 0;
  for await (const chunk of request.body ?? []) {
    bytes += chunk.byteLength;
    chunks += 1;
    for (const byte of chunk) if (byte === 10) lines += 1;
  }
  return Response.json({ bytes, lines, chunks });
}

/** Send every piece of the upload back at once, in capitals: both directions flow together. */
function shout(request) {
  const capitals = new TransformStream({
    transform(text, controller) {
      controller.enqueue(text.toUpperCase());
    },
  });
  const body = request.body
    ?.pipeThrough(new TextDecoderStream())
    .pipeThrough(capitals)
    .pipeThrough(new TextEncoderStream());
  return new Response(body, { headers: { "content-type": "text/plain; charset=utf-8" } });
}

function number(url, name, otherwise) {
  const value = Number(url.searchParams.get(name) ?? otherwise);
  return Number.isFinite(value) ? Math.min(Math.max(value, 1), 100_000) : otherwise;
}

const PAGE = `<!doctype html>
<html lang="en">
  <meta charset="utf-8" />
  <title>Clock</title>
  <style>
    body { display: grid; place-items: center; height: 100vh; margin: 0;
           font: 200 12vw/1 ui-monospace, monospace; color: #d9a441; background: #11141c; }
  </style>
  <time>--:--:--</time>
  <script>
    const face = document.querySelector("time");
    new EventSource("/clock").addEventListener("tick", (event) => {
      face.textContent = new Date(event.data).toLocaleTimeString();
    });
  </script>
</html>
`;
