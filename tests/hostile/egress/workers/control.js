// tries: what every worker may: public addresses and names, of both families, by fetch and connect()
// seen: all are reached, or this whole corpus would show nothing
import { get, tcp, tries } from './tries.js';

export default {
  fetch: () => tries([
    ['must: name', () => get('http://public.test/')],
    ['must: number', () => get('http://8.8.4.4/')],
    ['must: port', () => get('http://9.9.9.9:8787/')],
    ['must: IPv6', () => get('http://[2606:4700::1111]/')],
    ['must: redirect', () => get('http://public.test/to/http://listed.test/')],
    ['must: tcp', () => tcp('public.test:80')],
    ['must: tcp IPv6', () => tcp('[2606:4700::1111]:80')],
  ]),
};
