// URLs and their parameters.
const tried = (text, base) => {
  try {
    return new URL(text, base).href;
  } catch (error) {
    return error.name;
  }
};
export default {
  fetch(request) {
    const params = new URLSearchParams('a=1&b=%20&a=2&c');
    params.append('d', 'ü&=');
    params.sort();
    const url = new URL('https://user:pass@example.org:8443/a/b?q=1#h');
    url.pathname = '/x y';
    url.searchParams.set('q', '2 3');
    url.port = '443';
    return Response.json({
      relative: tried('../c?d#e', 'https://example.org/a/b/'), scheme: tried('//other.org/x', 'https://a/'),
      bad: tried('http://'), ip: tried('http://0x7f.1/'), six: tried('http://[::1]:80/'), data: tried('data:text/plain,x'),
      dots: tried('https://a/b/../../c/./d'), params: params.toString(), all: params.getAll('a'), size: params.size,
      changed: url.href, origin: url.origin, can: URL.canParse('nope'), own: request.url.slice(request.url.indexOf('/', 8)),
    });
  },
};
