// tries: a chain of promises before any request
// contained: refusedUpload
for (;;) await null;
export default { fetch() { return new Response('calm'); } };
