// The room: everybody who is connected sees each notice at once, and who is here; the last notices are
// kept. Between two messages the object may sleep, and the connections stay.

import { DurableObject } from "cloudflare:workers";

const KEPT = 50;
const TEXT_LENGTH_MAX = 500;
const NOT_SENT = [1005, 1006, 1015]; // say why there was no close frame, and are never in one

export class Room extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec(
      "CREATE TABLE IF NOT EXISTS notices (id INTEGER PRIMARY KEY, name TEXT, text TEXT, file TEXT, at INTEGER)",
    );
    this.woken = Date.now();
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
  }

  async fetch(request) {
    if (request.headers.get("upgrade") !== "websocket") {
      return new Response("This address speaks WebSocket.\n", { status: 426 });
    }
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    server.serializeAttachment({ name: decodeURIComponent(request.headers.get("x-name")) });
    server.send(this.framed({ kind: "last", notices: this.last() }));
    this.tell(this.here());
    return new Response(null, { status: 101, webSocket: client });
  }

  last() {
    const rows = this.ctx.storage.sql.exec("SELECT * FROM notices ORDER BY id DESC LIMIT ?", KEPT);
    return rows.toArray().reverse().map((row) => ({ ...row, file: JSON.parse(row.file) }));
  }

  here(gone) {
    const sockets = this.ctx.getWebSockets().filter((socket) => socket !== gone);
    const names = new Set(sockets.map((socket) => socket.deserializeAttachment().name));
    return { kind: "here", names: [...names].sort() };
  }

  framed(what) {
    return JSON.stringify({ ...what, woken: this.woken });
  }

  tell(what) {
    const text = this.framed(what);
    for (const socket of this.ctx.getWebSockets()) {
      if (socket.readyState === WebSocket.OPEN) socket.send(text);
    }
  }

  // Called by the Worker too, for what does not come over a socket: a shared file, a new picture.
  post(name, text, file = null) {
    const { sql } = this.ctx.storage;
    const notice = sql
      .exec(
        "INSERT INTO notices (name, text, file, at) VALUES (?, ?, ?, ?) RETURNING *",
        name, text, JSON.stringify(file), Date.now(),
      )
      .one();
    sql.exec("DELETE FROM notices WHERE id <= ?", notice.id - KEPT);
    this.tell({ kind: "notice", notice: { ...notice, file } });
  }

  changed(name) {
    this.tell({ kind: "picture", name });
  }

  async webSocketMessage(socket, message) {
    const { name } = socket.deserializeAttachment();
    this.post(name, String(message).slice(0, TEXT_LENGTH_MAX));
    await this.env.DB.prepare("UPDATE people SET posts = posts + 1 WHERE name = ?").bind(name).run();
  }

  webSocketClose(socket, code) {
    socket.close(NOT_SENT.includes(code) ? 1000 : code);
    this.tell(this.here(socket));
  }
}
