// tries: a loop before any request, that catches whatever would end it
// contained: refusedUpload
for (;;) {
  try {
    JSON.parse('{');
  } catch {
    continue;
  }
}
export default { fetch() { return new Response('calm'); } };
