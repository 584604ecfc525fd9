// A worker that does with KV what its address says, and tells what came of it.
const shown = (value) =>
  value instanceof ArrayBuffer ? { bytes: [...new Uint8Array(value)] } : value;

async function call(kv, { method, args }) {
  if (method === "stream") {
    return new Response(await kv.get(args[0], "stream")).text();
  }
  if (method === "putBytes") return kv.put(args[0], new Uint8Array(args[1]));
  if (method === "putStream") return kv.put(args[0], new Response(args[1]).body);
  if (method === "putLarge") return kv.put(args[0], new Uint8Array(args[1]).fill(args[2]));
  if (method === "large") {
    const found = new Uint8Array(await kv.get(args[0], "arrayBuffer"));
    return { size: found.length, first: found[0], last: found[found.length - 1] };
  }
  const found = await kv[method](...args);
  return found instanceof Map ? Object.fromEntries(found) : found;
}

export default {
  async fetch(request, env) {
    if (request.method !== "POST") return new Response("here");
    const calls = await request.json();
    const told = [];
    for (const each of calls) {
      try {
        told.push({ value: shown(await call(env.KV, each)) ?? null });
      } catch (error) {
        told.push({ error: String(error) });
      }
    }
    return Response.json(told);
  },
};
