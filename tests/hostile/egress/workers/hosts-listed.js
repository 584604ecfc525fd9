// tries: with two hosts listed, others: look-alikes, other ports, redirects, a forged Host, numbers
// seen: the listed ones are reached, and nobody else
import { get, tcp, tries } from './tries.js';

const others = ['http://public.test/', 'http://8.8.4.4/', 'http://9.9.9.9/', 'http://notlisted.test/', 'http://listed.test.evil.test/',
  'http://deep.listed.test:8080/', 'http://public.test/to/http://listed.test/', 'http://listed.test/to/http://public.test/',
  'http://listed.test@public.test/', 'http://.listed.test/'];
export default {
  fetch: () => tries([
    ['must: listed', () => get('http://listed.test/')],
    ['must: listed with a dot', () => get('http://LISTED.test./')],
    ['must: any port', () => get('http://listed.test:8080/')],
    ['must: below', () => get('http://deep.listed.test/')],
    ['must: tcp', () => tcp('listed.test:80')],
    ...others.map((url) => [url, () => get(url)]),
    ['host header', () => get('http://public.test/', { headers: { Host: 'listed.test' } })],
    ['tcp', () => tcp('public.test:80')],
    ['tcp port', () => tcp('deep.listed.test:443')],
  ]),
};
