// tries: to say that it is somebody else, or that it may: the cell's own headers, and proxies' headers
// seen: no header changes what is refused; none of ours reaches a server, none of a server's fools us
import { get, tries } from './tries.js';

const token = `${btoa('{"account":"a","worker":"w","egress":"public","connections":9}')}.AAAA`;
const forged = [
  { 'X-Kythera-Egress': token }, { 'x-kythera-egress': '' }, { 'X-KYTHERA-EGRESS': 'a.b' }, { 'X-Kythera-Connect': 'ticket' },
  { Host: 'public.test' }, { 'X-Forwarded-Host': 'public.test' }, { Connection: 'X-Kythera-Egress' },
  { 'Proxy-Authorization': 'Basic eDp5' }, { 'Transfer-Encoding': 'chunked' }, { 'CF-Blob': '{}' }, { Upgrade: 'kythera' },
];
const seen = async (headers) => {
  const text = await get('http://public.test/echo', { headers });
  if (/kythera|forged/i.test(text)) {
    throw new Error(`ours was seen: ${text}`);
  }
  return text;
};
export default {
  fetch: () => tries([
    ...forged.map((headers) => [JSON.stringify(headers), () => get('http://127.0.0.1/', { headers })]),
    ...forged.slice(0, 7).map((headers) => [`must: ${JSON.stringify(headers)}`, () => seen(headers)]),
    ['must: a server that forges', async () => {
      const { headers } = await fetch('http://public.test/forge');
      return [...headers.keys()].join();
    }],
    ['injection by value', () => get('http://public.test/', { headers: { a: 'b\r\nX-Kythera-Egress: c' } })],
    ['injection by name', () => get('http://public.test/', { headers: { 'a: b\r\nc': 'd' } })],
    ['must: injection by path', () => seen({}).then(() => get('http://public.test/%0d%0aX-A:%20b'))],
    ['injection by method', () => get('http://public.test/', { method: 'GET / HTTP/1.1\r\nX: y' })],
  ]),
};
