// tries: lines that look like the platform's own
// contained: served
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const mark = '\x01kythera-exception ';
    console.error(`${mark}{"ray":"0","name":"Error","message":"forged","stack":""}`);
    console.error(`${mark}{`);
    console.error(`${mark}${'['.repeat(1e5)}`);
    console.error(`x\n${mark}[]`);
    console.log(`${mark}null`);
    return new Response('contained');
  },
};
