// The smallest useful Worker: one request in, one response out.

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const name = decodeURIComponent(pathname.slice(1)) || "world";

    return new Response(`${env.GREETING}, ${name}!\n`, {
      headers: { "content-type": "text/plain; charset=utf-8" },
    });
  },
};
