// tries: to throw before any request
// contained: refusedUpload
throw new Error('at once');
export default { fetch() { return new Response('calm'); } };
