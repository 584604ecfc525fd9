// tries: a loop in the handler of a WebSocket's message
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
// ask: websocket
export default {
  fetch(request) {
    if (!request.headers.has('upgrade')) return new Response('calm');
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener('message', () => { for (;;); });
    return new Response(null, { status: 101, webSocket: client });
  },
};
