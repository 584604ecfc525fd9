// A notice board that keeps everything it knows beside its code: people and mail in D1, sessions in KV,
// pictures in R2, the room that all see at once in a Durable Object, letters to send in a queue, and a
// tidying-up each night.

import page from "./page.html";
import { migrate } from "./schema.js";
import { digest } from "./nightly.js";
export { Room } from "./room.js";

const SESSION_S = 7 * 24 * 3600;
const NAME_LENGTH_MAX = 40;
const PICTURE_BYTES_MAX = 2_000_000;

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    const route = ROUTES[`${request.method} /${url.pathname.split("/")[1]}`];
    if (!route) return new Response("There is nothing here.\n", { status: 404 });
    await migrate(env.DB);
    return route(request, env, url);
  },

  // Letters leave in batches. There is no mail server here: what would be sent is in the table `outbox`.
  async queue(batch, env) {
    await migrate(env.DB);
    const write = env.DB.prepare("INSERT OR IGNORE INTO outbox (id, recipient, text) VALUES (?, ?, ?)");
    await env.DB.batch(batch.messages.map(({ id, body }) => write.bind(id, body.to, body.text)));
  },

  async scheduled(event, env) {
    await migrate(env.DB);
    await digest(env);
  },
};

const ROUTES = {
  "GET /": () => new Response(page, { headers: { "content-type": "text/html; charset=utf-8" } }),
  "POST /join": join,
  "GET /me": async (request, env) => Response.json(await person(request, env)),
  "PUT /picture": putPicture,
  "GET /picture": getPicture,
  "GET /room": enterRoom,
  "GET /outbox": async (request, env) => {
    const me = await person(request, env);
    if (!me) return refused();
    const letters = env.DB.prepare("SELECT text FROM outbox WHERE recipient = ? ORDER BY rowid");
    return Response.json((await letters.bind(me.name).all()).results);
  },
};

function refused() {
  return Response.json({ error: "Join first: POST /join with {\"name\": …}." }, { status: 401 });
}

async function join(request, env) {
  const name = String((await request.json()).name ?? "").trim().slice(0, NAME_LENGTH_MAX);
  if (!name) return Response.json({ error: "A name is needed." }, { status: 400 });
  const taken = await env.DB.prepare("INSERT OR IGNORE INTO people (name) VALUES (?)").bind(name).run();
  if (!taken.meta.changes) return Response.json({ error: "Somebody has that name." }, { status: 409 });
  const session = crypto.randomUUID();
  await env.SESSIONS.put(session, name, { expirationTtl: SESSION_S });
  await env.MAIL.send({ to: name, text: `Welcome to the board, ${name}.` });
  const cookie = `session=${session}; Path=/; HttpOnly; SameSite=Lax; Max-Age=${SESSION_S}`;
  return Response.json({ name }, { status: 201, headers: { "set-cookie": cookie } });
}

async function person(request, env) {
  const session = request.headers.get("cookie")?.match(/(?:^|; )session=([\w-]+)/)?.[1];
  const name = session && (await env.SESSIONS.get(session));
  return name ? env.DB.prepare("SELECT name, posts FROM people WHERE name = ?").bind(name).first() : null;
}

async function putPicture(request, env) {
  const me = await person(request, env);
  if (!me) return refused();
  if (Number(request.headers.get("content-length")) > PICTURE_BYTES_MAX) {
    return Response.json({ error: "A picture has 2 MB at most." }, { status: 413 });
  }
  const httpMetadata = { contentType: request.headers.get("content-type") ?? "application/octet-stream" };
  const { size } = await env.FILES.put(`pictures/${me.name}`, request.body, { httpMetadata });
  return Response.json({ size }, { status: 201 });
}

async function getPicture(request, env, url) {
  const name = decodeURIComponent(url.pathname.slice("/picture/".length));
  const picture = await env.FILES.get(`pictures/${name}`);
  if (!picture) return new Response("No picture.\n", { status: 404 });
  const headers = new Headers({ etag: picture.httpEtag, "cache-control": "no-cache" });
  picture.writeHttpMetadata(headers);
  return new Response(picture.body, { headers });
}

async function enterRoom(request, env) {
  const me = await person(request, env);
  if (!me) return refused();
  const named = new Request(request);
  named.headers.set("x-name", encodeURIComponent(me.name));
  return env.ROOM.getByName("board").fetch(named);
}
