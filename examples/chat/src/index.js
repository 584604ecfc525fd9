// A chat: everybody in a room hears what anybody in it says.
//
// Rooms live in the memory of one process. A busy worker may run as several processes, each with
// rooms of its own: good for an example and for small numbers, not for a chat that must reach all.

import page from "./page.html";

const ROOM = /^\/rooms\/([\w-]{1,40})$/;
const NAME_LENGTH_MAX = 40;
const MESSAGE_LENGTH_MAX = 2_000;

/** Room name → the members now in it. */
const rooms = new Map();

export default {
  async fetch(request) {
    const url = new URL(request.url);
    if (url.pathname === "/") {
      return new Response(page, { headers: { "content-type": "text/html; charset=utf-8" } });
    }

    const room = url.pathname.match(ROOM)?.[1];
    if (!room) return new Response("Join a room at /rooms/<name>.\n", { status: 404 });
    if (request.headers.get("upgrade") !== "websocket") {
      return new Response("This address speaks WebSocket.\n", { status: 426 });
    }

    const [client, server] = Object.values(new WebSocketPair());
    server.accept();
    const name = (url.searchParams.get("name") || "somebody").slice(0, NAME_LENGTH_MAX);
    join(room, new Member(name, server));
    return new Response(null, { status: 101, webSocket: client });
  },
};

function join(room, member) {
  const members = rooms.get(room) ?? new Set();
  rooms.set(room, members.add(member));
  const tell = (event) => {
    for (const other of members) other.hear({ ...event, from: member.name });
  };
  const leave = () => {
    if (!members.delete(member)) return;
    if (!members.size) rooms.delete(room);
    member.leave();
    tell({ type: "leaves", members: members.size });
  };

  member.socket.addEventListener("message", ({ data }) => {
    tell({ type: "says", text: String(data).slice(0, MESSAGE_LENGTH_MAX) });
  });
  member.socket.addEventListener("close", leave);
  member.socket.addEventListener("error", leave);
  tell({ type: "joins", members: members.size });
  member.deliver();
}

/** One open socket. It may be written to only in the request it belongs to, so what others say
 *  goes through an inbox, and `deliver`, which runs in that request, wakes up to send it. */
class Member {
  #inbox = [];
  #wake = () => {};
  #gone = false;

  constructor(name, socket) {
    this.name = name;
    this.socket = socket;
  }

  hear(event) {
    this.#inbox.push(JSON.stringify(event));
    this.#wake();
  }

  leave() {
    this.#gone = true;
    this.#wake();
    this.socket.close();
  }

  async deliver() {
    while (!this.#gone) {
      for (const text of this.#inbox.splice(0)) this.socket.send(text);
      await new Promise((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
