// tries: to end its process before any request
// contained: refusedUpload
import { abortIsolate } from 'cloudflare:workers';

abortIsolate('at once');
export default { fetch() { return new Response('calm'); } };
