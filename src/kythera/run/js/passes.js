// Reads the passes that workerd shows for cells (`ground/passes.py`), in a store that is a worker of
// ours. Of several ways to write the same bytes one alone is good, so what is compared is text.
const HEADER = 'x-kythera-pass';
const CHARACTERS_MAX = 4096;
const KEPT_MAX = 4096;

const raw = new TextEncoder();
const verified = new Map();
let key;

async function isOurs(payload, mac, env) {
  key ??= await crypto.subtle.importKey(
    'raw', raw.encode(env.KEY), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'],
  );
  const right = new Uint8Array(await crypto.subtle.sign('HMAC', key, raw.encode(payload)));
  const wanted = raw.encode(right.toBase64({ alphabet: 'base64url', omitPadding: true }));
  const shown = raw.encode(mac);
  return wanted.length === shown.length && crypto.subtle.timingSafeEqual(wanted, shown);
}

// Returns who asks, and for what; null when it is no pass of this machine's to this store.
export async function passOf(request, env, store) {
  const text = request.headers.get(HEADER) ?? '';
  let pass = verified.get(text);
  if (pass === undefined) {
    const [payload, mac = ''] = text.length > CHARACTERS_MAX ? [''] : text.split('.', 2);
    if (text !== `${payload}.${mac}` || !await isOurs(payload, mac, env)) {
      return null;
    }
    const bytes = Uint8Array.fromBase64(payload, { alphabet: 'base64url' });
    pass = JSON.parse(new TextDecoder().decode(bytes));
    if (verified.size >= KEPT_MAX) {
      verified.delete(verified.keys().next().value);
    }
    verified.set(text, pass);
  }
  return pass.store === store ? pass : null;
}
