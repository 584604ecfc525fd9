// The Headers class: case, joining, cookies, order, what may not be in them.
function tried(what) {
  try {
    return what();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}
export default {
  fetch(request) {
    const headers = new Headers([['B', '2'], ['a', '1'], ['b', '3']]);
    headers.append('Set-Cookie', 'x=1');
    headers.append('set-cookie', 'y=2');
    const copy = new Headers(headers);
    copy.delete('B');
    return Response.json({
      all: [...headers], b: headers.get('b'), cookies: headers.getSetCookie(), copied: [...copy.keys()],
      missing: headers.get('c'), has: headers.has('A'), trimmed: new Headers({ a: '  x y \t' }).get('a'),
      newline: tried(() => headers.set('a', 'x\ny')), wide: tried(() => headers.set('a', '€')),
      empty: tried(() => headers.set('', 'x')), own: request.headers.get('x-own'),
      each: (() => { const found = []; headers.forEach((value, name) => found.push(name)); return found; })(),
    }, { headers: { 'x-answer': 'ä', 'x-list': 'a, b' } });
  },
};
