// tries: to keep a connection open for ever
// contained: cut
// ask: websocket
export default {
  fetch(request) {
    if (!request.headers.has('upgrade')) return new Response('calm');
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener('close', () => {});
    return new Response(null, { status: 101, webSocket: client });
  },
};
