// tries: a text that unfolds while the code is read
// contained: refusedUpload
const kept = [];
for (let i = 0; i < 1e4; i += 1) kept.push(`${i}${'x'.repeat(1e6)}`.split(''));
export default { fetch() { return new Response(String(kept.length)); } };
