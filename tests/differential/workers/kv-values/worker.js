// KV: values of all types, metadata, what is not there, what is refused.
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

export default {
  async fetch(request, { KV }) {
    await KV.put('text', 'grüße', { metadata: { a: [1, null] } });
    await KV.put('json', JSON.stringify({ deep: { n: 1.5 } }));
    await KV.put('bytes', new Uint8Array([0, 255, 7]));
    await KV.put('stream', new Response('streamed').body);
    await KV.put('empty', '');
    await KV.put('a/b c?d#e%2F', 'odd key');
    const stream = await KV.get('text', { type: 'stream' });
    const both = await KV.getWithMetadata('text');
    return Response.json({
      text: await KV.get('text'),
      json: await KV.get('json', 'json'),
      bytes: [...new Uint8Array(await KV.get('bytes', 'arrayBuffer'))],
      stream: await new Response(stream).text(),
      streamed: await KV.get('stream', { cacheTtl: 60 }),
      empty: await KV.get('empty'),
      odd: await KV.get('a/b c?d#e%2F'),
      missing: await KV.get('missing'),
      both: [both.value, both.metadata],
      none: await KV.getWithMetadata('missing'),
      plain: (await KV.getWithMetadata('json', 'json')).metadata,
      many: [...(await KV.get(['text', 'missing', 'empty']))],
      manyJson: [...(await KV.get(['json', 'missing'], 'json'))],
      manyWith: [...(await KV.getWithMetadata(['text', 'missing']))].map(([k, v]) => [k, v?.value ?? null, v?.metadata ?? null]),
      notJson: await tried(() => KV.get('text', 'json')),
      deleted: [await tried(() => KV.delete('empty')), await KV.get('empty')],
      deletedAgain: await tried(() => KV.delete('empty')),
      emptyKey: await tried(() => KV.put('', 'x')),
      dotKey: await tried(() => KV.get('.')),
      longKey: await tried(() => KV.get('k'.repeat(513))),
      soon: await tried(() => KV.put('soon', 'x', { expirationTtl: 1 })),
      past: await tried(() => KV.put('past', 'x', { expiration: 1000 })),
      bigMetadata: await tried(() => KV.put('meta', 'x', { metadata: 'm'.repeat(1025) })),
      cacheTtl: await tried(() => KV.get('text', { cacheTtl: 1 })),
      type: await tried(() => KV.get('text', 'xml')),
      tooMany: await tried(() => KV.get(Array.from({ length: 101 }, (_, i) => `k${i}`))),
    });
  },
};
