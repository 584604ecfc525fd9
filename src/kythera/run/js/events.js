// Calls a worker's other handlers than `fetch`, in the worker's own process, for the platform alone:
// on the process's own socket, which no visitor and no other cell reaches.

const decoder = new TextDecoder();

// A batch of messages: the length of its head, the head, then what is no JSON, one after the other.
function messagesOf(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const { queue, metadata, messages } = JSON.parse(decoder.decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const taken = (size) => {
    at += size;
    return buffer.slice(at - size, at);
  };
  const opened = messages.map(({ id, timestamp, attempts, body, bytes, v8 }) => {
    const message = { id, timestamp: new Date(timestamp), attempts };
    if (v8 !== undefined) {
      message.serializedBody = new Uint8Array(taken(v8));
    } else {
      message.body = bytes === undefined ? body : taken(bytes);
    }
    return message;
  });
  return { queue, metadata, messages: opened };
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === '/scheduled') {
      const { cron, scheduled_ms } = await request.json();
      const scheduledTime = new Date(scheduled_ms);
      return Response.json(await env.WORKER.scheduled({ cron, scheduledTime }));
    }
    if (pathname === '/queue') {
      const { queue, metadata, messages } = messagesOf(await request.arrayBuffer());
      return Response.json(await env.WORKER.queue(queue, messages, metadata));
    }
    return new Response(null, { status: 404 });
  },
};
