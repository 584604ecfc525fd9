// tries: a regular expression that backtracks before any request
// contained: refusedUpload
const found = /^(a+)+$/.test('a'.repeat(60) + 'b');
export default { fetch() { return new Response(String(found)); } };
