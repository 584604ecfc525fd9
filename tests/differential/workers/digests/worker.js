// WebCrypto: digests, HMAC, AES-GCM, ECDSA, PBKDF2, and refusals.
const hex = (buffer) => [...new Uint8Array(buffer)].map((b) => b.toString(16).padStart(2, '0')).join('');
const bytes = (text) => new TextEncoder().encode(text);
async function tried(what) {
  try {
    return await what();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}
export default {
  async fetch() {
    const { subtle } = crypto;
    const hmac = await subtle.importKey('raw', bytes('key'), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
    const aes = await subtle.importKey('raw', new Uint8Array(32), 'AES-GCM', true, ['encrypt', 'decrypt']);
    const iv = new Uint8Array(12);
    const sealed = await subtle.encrypt({ name: 'AES-GCM', iv }, aes, bytes('secret'));
    const base = await subtle.importKey('raw', bytes('pass'), 'PBKDF2', false, ['deriveBits']);
    const pair = await subtle.generateKey({ name: 'ECDSA', namedCurve: 'P-256' }, true, ['sign', 'verify']);
    const algorithm = { name: 'ECDSA', hash: 'SHA-256' };
    const signature = await subtle.sign(algorithm, pair.privateKey, bytes('a'));
    return Response.json({
      md5: hex(await subtle.digest('MD5', bytes('a'))),
      sha1: hex(await subtle.digest('SHA-1', bytes('a'))),
      sha512: hex(await subtle.digest({ name: 'SHA-512' }, bytes('a'))),
      hmac: hex(await subtle.sign('HMAC', hmac, bytes('a'))),
      sealed: hex(sealed),
      opened: new TextDecoder().decode(await subtle.decrypt({ name: 'AES-GCM', iv }, aes, sealed)),
      broken: await tried(() => subtle.decrypt({ name: 'AES-GCM', iv }, aes, new Uint8Array(20))),
      derived: hex(await subtle.deriveBits(
        { name: 'PBKDF2', salt: bytes('salt'), iterations: 1000, hash: 'SHA-256' }, base, 128)),
      verified: await subtle.verify(algorithm, pair.publicKey, signature, bytes('a')),
      denied: await subtle.verify(algorithm, pair.publicKey, signature, bytes('b')),
      jwk: Object.keys(await subtle.exportKey('jwk', pair.publicKey)).sort(),
      extract: await tried(() => subtle.exportKey('raw', hmac)),
      unknown: await tried(() => subtle.digest('SHA-0', bytes('a'))),
      equal: crypto.subtle.timingSafeEqual(bytes('a'), bytes('a')),
      uuid: /^[0-9a-f-]{36}$/.test(crypto.randomUUID()),
      random: crypto.getRandomValues(new Uint8Array(8)).length,
      much: await tried(() => crypto.getRandomValues(new Uint8Array(65537)).length),
    });
  },
};
