// tries: a loop in a handler of HTMLRewriter
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
// answered: maybe
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const page = new Response('<p>text</p>');
    return new HTMLRewriter().on('p', { element() { for (;;); } }).transform(page);
  },
};
