// tries: memory before any request
// contained: refusedUpload
const kept = [];
for (;;) kept.push(Array(1e5).fill(kept.length));
export default { fetch() { return new Response('calm'); } };
