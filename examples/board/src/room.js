// The room: everybody who is connected sees each notice at once; the last ones are kept. Between two
// messages the object may sleep, and the connections stay.

import { DurableObject } from "cloudflare:workers";

const KEPT = 50;
const TEXT_LENGTH_MAX = 500;

export class Room extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS notices (id INTEGER PRIMARY KEY, name TEXT, text TEXT)");
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
  }

  async fetch(request) {
    if (request.headers.get("upgrade") !== "websocket") {
      return new Response("This address speaks WebSocket.\n", { status: 426 });
    }
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    server.serializeAttachment({ name: decodeURIComponent(request.headers.get("x-name")) });
    for (const notice of this.last()) server.send(JSON.stringify(notice));
    return new Response(null, { status: 101, webSocket: client });
  }

  last() {
    const rows = this.ctx.storage.sql.exec("SELECT name, text FROM notices ORDER BY id DESC LIMIT ?", KEPT);
    return rows.toArray().reverse();
  }

  async webSocketMessage(socket, message) {
    const { name } = socket.deserializeAttachment();
    const text = String(message).slice(0, TEXT_LENGTH_MAX);
    this.ctx.storage.sql.exec("INSERT INTO notices (name, text) VALUES (?, ?)", name, text);
    this.ctx.storage.sql.exec("DELETE FROM notices WHERE id <= (SELECT max(id) FROM notices) - ?", KEPT);
    for (const other of this.ctx.getWebSockets()) other.send(JSON.stringify({ name, text }));
    await this.env.DB.prepare("UPDATE people SET posts = posts + 1 WHERE name = ?").bind(name).run();
  }

  async webSocketClose(socket, code) {
    socket.close(code === 1005 ? 1000 : code);
  }
}
