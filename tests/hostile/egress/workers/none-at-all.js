// tries: with egress none, whatever is public
// seen: nothing is reached, and the sentence says why
import { get, tcp, tries } from './tries.js';

export default {
  fetch: () => tries([
    ['http', () => get('http://public.test/')],
    ['number', () => get('http://8.8.4.4/')],
    ['https', () => get('https://listed.test/')],
    ['tcp', () => tcp('public.test:80')],
    ['must: data', () => get('data:text/plain,written')],
  ]),
};
