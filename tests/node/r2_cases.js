// What a Worker does with its bucket, a case for each path; each answers with JSON.
const sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const keys = (list) => list.objects.map((object) => object.key);

const cases = {
  async put_get(b) {
    const put = await b.put("o", "hello", {
      customMetadata: { x: "ü", Y: "z" },
      httpMetadata: { contentType: "text/x", cacheControl: "no-cache", cacheExpiry: new Date(1e12) },
    });
    const got = await b.get("o");
    const headers = new Headers();
    got.writeHttpMetadata(headers);
    return {
      text: await got.text(), etag: got.httpEtag, custom: got.customMetadata, size: got.size,
      headers: Object.fromEntries(headers), sums: got.checksums.toJSON(), storage: got.storageClass,
      same: put.version === got.version && put.uploaded.getTime() === got.uploaded.getTime(),
      recent: Math.abs(Date.now() - got.uploaded.getTime()) < 60000, missing: await b.get("none"),
    };
  },
  async bodies(b) {
    await b.put("j", JSON.stringify({ a: 1 }));
    await b.put("u", new Uint8Array([1, 2, 3]));
    await b.put("l", new Blob(["blob"]));
    await b.put("n", null);
    await b.put("s", new Response("stream").body);
    return [
      await (await b.get("j")).json(), [...new Uint8Array(await (await b.get("u")).arrayBuffer())],
      await (await (await b.get("l")).blob()).text(), (await b.get("n")).size,
      await new Response((await b.get("s")).body).text(),
    ];
  },
  async head(b) {
    await b.put("h", "12345", { customMetadata: { a: "b" } });
    const head = await b.head("h");
    return [head.key, head.size, head.customMetadata, "body" in head, await b.head("none")];
  },
  async ranges(b) {
    await b.put("r", "0123456789");
    const found = [];
    for (const range of [{ offset: 2, length: 3 }, { offset: 7 }, { length: 2 }, { suffix: 2 },
      new Headers({ range: "bytes=1-2" })]) {
      const part = await b.get("r", { range });
      found.push([await part.text(), part.range.offset, part.range.length, part.size]);
    }
    const beyond = await b.get("r", { range: { offset: 10 } }).catch((error) => error.message);
    return [found, beyond];
  },
  async conditions(b) {
    const { etag, uploaded } = await b.put("c", "one");
    const later = new Date(uploaded.getTime() + 10000), before = new Date(uploaded.getTime() - 10000);
    const held = async (onlyIf) => "body" in (await b.get("c", { onlyIf }));
    const written = async (key, onlyIf) => (await b.put(key, "two", { onlyIf })) !== null;
    return [
      await held({ etagMatches: etag }), await held({ etagMatches: "x" }),
      await held({ etagDoesNotMatch: etag }), await held({ uploadedBefore: later }),
      await held({ uploadedBefore: before }), await held({ uploadedAfter: before }),
      await held({ uploadedAfter: later }), await held(new Headers({ "if-none-match": `"${etag}"` })),
      await written("c", { etagMatches: "x" }), await written("c", { etagMatches: etag }),
      await written("c", { etagDoesNotMatch: "*" }), await written("fresh", { etagDoesNotMatch: "*" }),
    ];
  },
  async race(b) {
    const wins = await Promise.all(Array.from({ length: 20 }, (_, n) =>
      b.put("race", String(n), { onlyIf: { etagDoesNotMatch: "*" } })));
    return wins.filter((won) => won !== null).length;
  },
  async checksums(b) {
    const good = await b.put("k", "hello", { sha256 });
    const bad = await b.put("bad", "hellx", { sha256 }).catch((error) => error.message);
    const large = new Uint8Array(12 << 20);
    const worse = await b.put("bad", large, { sha256 }).catch((error) => error.message);
    return [good.checksums.toJSON().sha256, bad, worse.slice(-8), await b.head("bad")];
  },
  async list(b) {
    const all = ["//w", "a", "a-b", "a/b", "a/b/c", "k\u0001", "x/1", "x/2", "ü/\u{1F600}"];
    for (const key of all) await b.put("L" + key, key, { customMetadata: { key: "1" } });
    const whole = await b.list({ prefix: "L" });
    const one = await b.list({ prefix: "L", delimiter: "/", limit: 3 });
    const two = await b.list({ prefix: "L", delimiter: "/", cursor: one.cursor });
    const after = await b.list({ prefix: "L", startAfter: "La/b" });
    const [custom] = (await b.list({ prefix: "La", include: ["customMetadata"] })).objects;
    return [
      keys(whole), whole.truncated, [keys(one), one.delimitedPrefixes, one.truncated],
      [keys(two), two.delimitedPrefixes, two.truncated], keys(after),
      [custom.customMetadata, custom.httpMetadata === undefined],
      await b.list({ limit: 1001 }).catch((error) => error.message),
    ];
  },
  async remove(b) {
    for (const key of ["D1", "D2", "D3/x", "D\u0002"]) await b.put(key, "x");
    await b.delete("D1");
    await b.delete(["D2", "D\u0002", "never-there"]);
    await b.delete("never-there");
    return keys(await b.list({ prefix: "D" }));
  },
  async multipart(b) {
    const begun = await b.createMultipartUpload("m", {
      customMetadata: { q: "1" }, httpMetadata: { contentType: "a/b" },
    });
    const one = await begun.uploadPart(1, new Uint8Array(5 << 20));
    const again = b.resumeMultipartUpload("m", begun.uploadId);
    const two = await again.uploadPart(2, "end");
    const made = await again.complete([one, two]);
    const got = await b.get("m", { range: { suffix: 3 } });
    return [made.size, made.etag.endsWith("-2"), await got.text(), got.customMetadata,
      got.httpMetadata, made.checksums.toJSON()];
  },
  async multipart_refused(b) {
    const refused = async (doing) => doing().then(() => "done", (error) => error.message);
    const begun = await b.createMultipartUpload("m2");
    const part = await begun.uploadPart(1, "short");
    const other = await begun.uploadPart(2, "short");
    const found = [
      await refused(() => begun.complete([part, other])),
      await refused(() => begun.complete([{ partNumber: 1, etag: "0".repeat(32) }])),
    ];
    await begun.abort();
    found.push(await refused(() => begun.uploadPart(3, "x")), await refused(() => begun.abort()));
    return [found, await b.head("m2")];
  },
  async limits(b) {
    const refused = async (doing) => doing().then(() => "done", (error) => error.message);
    return [
      await refused(() => b.put("k".repeat(1025), "x")), await refused(() => b.put("k".repeat(1024), "x")),
      await refused(() => b.put("k", "x", { customMetadata: { x: "y".repeat(8192) } })),
      await refused(() => b.put("k", "x", { ssecKey: "a".repeat(64) })),
      await refused(() => b.put("k", "x", { storageClass: "Glacier" })),
      (await b.put("k", "x", { storageClass: "InfrequentAccess" })).storageClass,
    ];
  },
};

export default {
  async fetch(request, env) {
    const name = new URL(request.url).pathname.slice(1);
    if (name in cases) return Response.json(await cases[name](env.BUCKET));
    if (request.method === "DELETE") return new Response(await env.BUCKET.delete(name));
    if (request.method === "PUT") return new Response((await env.BUCKET.put(name, request.body)).etag);
    const found = await env.BUCKET.get(name);
    return found === null ? new Response("none", { status: 404 }) : new Response(found.body);
  },
};
