// tries: a string that doubles until it has to be written out
// contained: ended
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    let text = 'x';
    const kept = [];
    for (;;) {
      text = 'x'.repeat(1 << 20);
      while (text.length < 1 << 28) text += text;
      kept.push(text.charCodeAt(text.length >> 1), text.replace('y', 'z'), text);
    }
  },
};
