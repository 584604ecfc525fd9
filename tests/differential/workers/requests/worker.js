// What a worker sees of a request.
export default {
  async fetch(request) {
    const url = new URL(request.url);
    const shown = ['accept', 'content-type', 'x-own', 'x-empty', 'cookie', 'range'];
    return Response.json({
      method: request.method,
      path: url.pathname,
      search: url.search,
      params: [...url.searchParams],
      headers: shown.map((name) => [name, request.headers.get(name)]),
      body: request.body === null ? null : await request.text(),
      redirect: request.redirect,
      used: request.bodyUsed,
    });
  },
};
