// tries: a script that is none
// contained: refusedUpload
export default { fetch() { return new Response('calm' } };
