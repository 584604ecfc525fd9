// tries: a loop before any request
// contained: refusedUpload
for (;;);
export default { fetch() { return new Response('calm'); } };
