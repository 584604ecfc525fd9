// tries: to wait for ever before any request
// contained: refusedUpload
await new Promise(() => {});
export default { fetch() { return new Response('calm'); } };
