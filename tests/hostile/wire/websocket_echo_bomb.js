// tries: ten messages for each that comes
// contained: cut
// ask: websocket
export default {
  fetch(request) {
    if (!request.headers.has('upgrade')) return new Response('calm');
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener('message', ({ data }) => { for (let i = 0; i < 10; i += 1) server.send(data + data); });
    return new Response(null, { status: 101, webSocket: client });
  },
};
