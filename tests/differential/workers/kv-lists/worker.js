// KV: lists in order, with prefixes, limits, cursors, expirations and metadata.
export default {
  async fetch(request, { KV }) {
    const names = ['b', 'a/1', 'a/2', 'a/10', 'ä', 'A', 'a', 'zz'];
    for (const name of names) {
      await KV.put(name, name, name === 'b' ? { metadata: { is: 'b' }, expiration: 2100000000 } : {});
    }
    const pages = [];
    let cursor;
    do {
      const page = await KV.list({ limit: 3, cursor });
      pages.push(page.keys.map((key) => key.name));
      cursor = page.list_complete ? null : page.cursor;
    } while (cursor);
    const { keys, list_complete: complete } = await KV.list({ prefix: 'a/' });
    const none = await KV.list({ prefix: 'nobody' });
    await KV.delete('a/1');
    const after = await KV.list({ prefix: 'a/' });
    return Response.json({
      pages, keys, complete,
      none: [none.keys, none.list_complete],
      one: (await KV.list({ prefix: 'b' })).keys,
      after: after.keys.map((key) => key.name),
    });
  },
};
