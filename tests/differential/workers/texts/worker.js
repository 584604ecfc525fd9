// Encodings, compression, base64, and what a decoder says of bytes that are no text.
async function through(transform, bytes) {
  const stream = new Response(bytes).body.pipeThrough(transform);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
function tried(what) {
  try {
    return what();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}
export default {
  async fetch() {
    const text = 'grüße 🌍 '.repeat(50);
    const bytes = new TextEncoder().encode(text);
    const packed = await through(new CompressionStream('gzip'), bytes);
    const back = await through(new DecompressionStream('gzip'), packed);
    return Response.json({
      length: bytes.length,
      smaller: packed.length < bytes.length,
      same: new TextDecoder().decode(back) === text,
      base64: btoa('\u00ff\u0000a'),
      back: tried(() => atob('!')),
      wide: tried(() => btoa('ü€')),
      latin: new TextDecoder('latin1').decode(new Uint8Array([0xfc, 0x80])),
      fatal: tried(() => new TextDecoder('utf-8', { fatal: true }).decode(new Uint8Array([0xff]))),
      lenient: new TextDecoder().decode(new Uint8Array([0x61, 0xff, 0x62])),
      utf16: new TextDecoder('utf-16le').decode(new Uint8Array([0x61, 0, 0x62, 0])),
      unknown: tried(() => new TextDecoder('klingon').encoding),
      sorted: ['ä', 'z', 'a'].sort(new Intl.Collator('de').compare),
      money: new Intl.NumberFormat('de-DE', { style: 'currency', currency: 'EUR' }).format(1234.5),
      date: new Intl.DateTimeFormat('en-GB', { timeZone: 'UTC' }).format(new Date(0)),
      zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    });
  },
};
