// HTMLRewriter: elements, attributes, text, comments, what is taken out, what is put in.
const PAGE = `<!doctype html><title>Old</title><body class="a b"><!-- note --><a href="/x?a=1&amp;b=2">link</a>
<p>one<br>two</p><script>if (1 < 2) {}</script><ul><li>1<li>2</ul></body>`;
export default {
  fetch(request) {
    const { searchParams } = new URL(request.url);
    const page = new Response(PAGE, { headers: { 'content-type': 'text/html' } });
    return new HTMLRewriter()
      .on('title', { element(element) { element.setInnerContent(searchParams.get('title') ?? 'New'); } })
      .on('body', {
        element(element) {
          element.setAttribute('id', [...element.attributes].map(([name]) => name).join());
          element.append('<footer>end</footer>', { html: true });
        },
        comments(comment) { comment.text = comment.text.toUpperCase(); },
      })
      .on('a[href]', { element(element) { element.before(element.getAttribute('href')); element.removeAttribute('href'); } })
      .on('p', { text(chunk) { if (!chunk.lastInTextNode) chunk.replace(chunk.text.toUpperCase()); } })
      .on('script', { element(element) { element.remove(); } })
      .on('li', { element(element) { element.tagName = 'dd'; } })
      .onDocument({ end(end) { end.append('<!-- done -->', { html: true }); } })
      .transform(page);
  },
};
