// tries: messages to somebody who never reads
// contained: boundedMemory
// ask: websocket
export default {
  fetch(request) {
    if (!request.headers.has('upgrade')) return new Response('calm');
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    server.addEventListener('message', () => {
      const piece = new Uint8Array(8 << 20).fill(1);
      for (let i = 0; i < 64; i += 1) server.send(piece);
    });
    return new Response(null, { status: 101, webSocket: client });
  },
};
