// tries: messages without end, to whoever connected
// contained: cut
// ask: websocket
export default {
  fetch(request) {
    if (!request.headers.has('upgrade')) return new Response('calm');
    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    const timer = setInterval(() => { for (let i = 0; i < 100; i += 1) server.send('x'.repeat(1000)); }, 1);
    server.addEventListener('close', () => clearInterval(timer));
    return new Response(null, { status: 101, webSocket: client });
  },
};
