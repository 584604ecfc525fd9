// R2: objects with metadata, ranges, conditions, checksums, lists; what is not there.
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

const shown = (object) => object && {
  key: object.key, size: object.size, http: object.httpMetadata, custom: object.customMetadata,
  etag: object.etag === undefined ? null : object.etag.length, quoted: object.httpEtag?.startsWith('"'),
  range: object.range ?? null, storageClass: object.storageClass ?? null,
};
export default {
  async fetch(request, { R2 }) {
    const put = await R2.put('a/file.txt', '0123456789', {
      httpMetadata: { contentType: 'text/plain', cacheControl: 'max-age=60', contentLanguage: 'de' },
      customMetadata: { owner: 'me', empty: '' },
    });
    await R2.put('a/bytes', new Uint8Array([1, 2, 3]));
    await R2.put('b', null);
    await R2.put('c', new Blob(['blob']));
    const whole = await R2.get('a/file.txt');
    const text = await whole.text();
    const headers = new Headers();
    whole.writeHttpMetadata(headers);
    const part = await R2.get('a/file.txt', { range: { offset: 2, length: 3 } });
    const suffix = await R2.get('a/file.txt', { range: { suffix: 2 } });
    const unchanged = await R2.get('a/file.txt', { onlyIf: { etagDoesNotMatch: put.etag } });
    const matched = await R2.get('a/file.txt', { onlyIf: { etagMatches: put.etag } });
    const list = await R2.list({ include: ['httpMetadata', 'customMetadata'] });
    const folders = await R2.list({ delimiter: '/' });
    const first = await R2.list({ limit: 1 });
    const second = await R2.list({ limit: 1, cursor: first.cursor });
    return Response.json({
      put: shown(put), text, headers: [...headers], head: shown(await R2.head('a/file.txt')),
      part: [await part.text(), part.range], suffix: [await suffix.text(), suffix.range],
      unchanged: [shown(unchanged) !== null, 'body' in unchanged && unchanged.body !== undefined],
      matched: await matched.text(),
      refused: await R2.put('a/file.txt', 'x', { onlyIf: { etagMatches: 'other' } }),
      md5: (await R2.put('sum', 'abc', { md5: '900150983cd24fb0d6963f7d28e17f72' })).checksums.toJSON(),
      wrongSum: await tried(() => R2.put('sum', 'abc', { md5: '00000000000000000000000000000000' })),
      missing: [await R2.get('missing'), await R2.head('missing')],
      list: list.objects.map(shown), folders: [folders.delimitedPrefixes, folders.objects.map((o) => o.key)],
      pages: [first.objects[0].key, first.truncated, second.objects[0].key],
      deleted: await tried(async () => { await R2.delete(['a/bytes', 'missing']); return R2.head('a/bytes'); }),
      longKey: await tried(() => R2.put('k'.repeat(1025), 'x')),
      range: await tried(async () => (await R2.get('a/file.txt', { range: { offset: 20 } })).text()),
    });
  },
};
