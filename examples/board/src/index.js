// A notice board that keeps everything it knows beside its code: people and mail in D1, sessions in KV,
// pictures and files in R2, the room that all see at once in a Durable Object, letters to send in a queue,
// signing up in a workflow, and a digest each night.

import page from "./page.html";
import { migrate } from "./schema.js";
import { digest } from "./nightly.js";
import { signUp, visited } from "./sign-up.js";
export { Room } from "./room.js";
export { SignUp } from "./sign-up.js";

const SESSION_S = 7 * 24 * 3600;
const NAME_LENGTH_MAX = 40;
const PICTURE_BYTES_MAX = 2_000_000;
const PICTURE_TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const FILE_BYTES_MAX = 20_000_000;
const FILE_NAME_LENGTH_MAX = 120;

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
  "POST /files": postFile,
  "GET /files": getFile,
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
  if (!(await signUp(env, name))) return Response.json({ error: "Somebody has that name." }, { status: 409 });
  const session = crypto.randomUUID();
  await env.SESSIONS.put(session, name, { expirationTtl: SESSION_S });
  const cookie = `session=${session}; Path=/; HttpOnly; SameSite=Lax; Max-Age=${SESSION_S}`;
  return Response.json({ name }, { status: 201, headers: { "set-cookie": cookie } });
}

async function person(request, env) {
  const session = request.headers.get("cookie")?.match(/(?:^|; )session=([\w-]+)/)?.[1];
  const name = session && (await env.SESSIONS.get(session));
  return name ? env.DB.prepare("SELECT name, posts FROM people WHERE name = ?").bind(name).first() : null;
}

function tooLarge(request, most) {
  const size = Number(request.headers.get("content-length") ?? NaN);
  if (Number.isNaN(size)) return Response.json({ error: "Say how long it is (Content-Length)." }, { status: 411 });
  return size > most ? Response.json({ error: `${most / 1e6} MB at most.` }, { status: 413 }) : null;
}

const room = (env) => env.ROOM.getByName("board");

async function putPicture(request, env) {
  const me = await person(request, env);
  if (!me) return refused();
  const contentType = request.headers.get("content-type");
  if (!PICTURE_TYPES.includes(contentType)) {
    return Response.json({ error: "A picture is a PNG, JPEG, GIF or WebP." }, { status: 415 });
  }
  const refusal = tooLarge(request, PICTURE_BYTES_MAX);
  if (refusal) return refusal;
  const { size } = await env.FILES.put(`pictures/${me.name}`, request.body, { httpMetadata: { contentType } });
  await room(env).changed(me.name);
  return Response.json({ size }, { status: 201 });
}

async function getPicture(request, env, url) {
  const name = decodeURIComponent(url.pathname.slice("/picture/".length));
  const picture = await env.FILES.get(`pictures/${name}`, { onlyIf: request.headers });
  const headers = new Headers({ "cache-control": "no-cache", "x-content-type-options": "nosniff" });
  if (!picture) {
    headers.set("content-type", "image/svg+xml");
    return new Response(initial(name), { headers });
  }
  picture.writeHttpMetadata(headers);
  headers.set("etag", picture.httpEtag);
  return picture.body ? new Response(picture.body, { headers }) : new Response(null, { status: 304, headers });
}

// Who has no picture yet gets a letter on a colour of their own.
function initial(name) {
  const letter = [...name][0].toUpperCase().replace(/[<&]/, "?");
  const hue = [...name].reduce((sum, each) => (sum * 31 + each.codePointAt(0)) % 360, 7);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36"><rect width="36" height="36" fill="hsl(${hue} 45% 38%)"/>
<text x="18" y="24" fill="white" font-family="system-ui,sans-serif" font-size="17" font-weight="600" text-anchor="middle">${letter}</text></svg>`;
}

async function postFile(request, env, url) {
  const me = await person(request, env);
  if (!me) return refused();
  const refusal = tooLarge(request, FILE_BYTES_MAX);
  if (refusal) return refusal;
  const file = { id: crypto.randomUUID(), name: url.searchParams.get("name")?.slice(0, FILE_NAME_LENGTH_MAX) || "file" };
  // Strangers' files are for saving, never for showing: a page among them would act in our name.
  const httpMetadata = {
    contentType: "application/octet-stream",
    contentDisposition: `attachment; filename*=UTF-8''${encodeURIComponent(file.name)}`,
  };
  const { size } = await env.FILES.put(`files/${file.id}`, request.body, { httpMetadata });
  await room(env).post(me.name, "", { ...file, size });
  return Response.json({ ...file, size }, { status: 201 });
}

async function getFile(request, env, url) {
  if (!(await person(request, env))) return refused();
  const file = await env.FILES.get(`files/${url.pathname.slice("/files/".length)}`);
  if (!file) return new Response("No such file.\n", { status: 404 });
  const headers = new Headers({ etag: file.httpEtag, "x-content-type-options": "nosniff" });
  file.writeHttpMetadata(headers);
  return new Response(file.body, { headers });
}

async function enterRoom(request, env) {
  const me = await person(request, env);
  if (!me) return refused();
  await visited(env, me.name);
  const named = new Request(request);
  named.headers.set("x-name", encodeURIComponent(me.name));
  return room(env).fetch(named);
}
