// A proxy that rewrites HTML on its way through. Pages are never held as a whole: HTMLRewriter
// changes them while they stream from the upstream to the visitor.

const LINKS = { a: "href", link: "href", form: "action", img: "src", script: "src" };

export default {
  async fetch(request, env) {
    const here = new URL(request.url);
    const upstream = new URL(env.UPSTREAM);
    const target = new URL(here.pathname + here.search, upstream);

    const response = await fetch(target, forward(request));
    const answer = new Response(response.body, response);

    const location = answer.headers.get("location");
    if (location) answer.headers.set("location", comeHome(location, target, upstream, here));

    const isPage = answer.headers.get("content-type")?.startsWith("text/html");
    return isPage ? rewriter(target, upstream, here).transform(answer) : answer;
  },
};

/** The visitor's request for the upstream; redirects are passed on, not followed. */
function forward(request) {
  const headers = new Headers(request.headers);
  headers.delete("host");
  return { method: request.method, headers, body: request.body, redirect: "manual" };
}

function rewriter(target, upstream, here) {
  const rewriter = new HTMLRewriter()
    .on("title", {
      element(title) {
        title.append(` (by way of ${here.hostname})`);
      },
    })
    .on("body", {
      element(body) {
        body.prepend(`<p>You are reading <b>${upstream.host}</b> through a Worker.</p>`, {
          html: true,
        });
      },
    });
  for (const [tag, attribute] of Object.entries(LINKS)) {
    rewriter.on(`${tag}[${attribute}]`, {
      element(element) {
        const link = element.getAttribute(attribute);
        element.setAttribute(attribute, comeHome(link, target, upstream, here));
      },
    });
  }
  return rewriter;
}

/** A link to the upstream leads back here; every other link stays as it is. */
function comeHome(link, target, upstream, here) {
  const absolute = URL.parse(link, target);
  if (absolute?.origin !== upstream.origin) return link;
  return here.origin + absolute.pathname + absolute.search + absolute.hash;
}
