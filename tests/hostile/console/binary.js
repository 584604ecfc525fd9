// tries: bytes that are no text, and sequences that steer terminals
// contained: served
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let text = '';
    for (let i = 0; i < 65536; i += 1) text += String.fromCharCode(i);
    console.log(text);
    console.log('\x1b]0;taken\x07\x1b[2J\x1b[31m\x9b0m\0\r\n\u2028\ud800');
    return new Response('contained');
  },
};
