// tries: a name that leads to a public address and to loopback at once
// seen: the public one is reached, at its own ports; where it is closed, loopback does not step in
import { get, tcp, tries } from './tries.js';

export default {
  fetch: () => tries([
    ['may: http', () => get('http://both.test/')],
    ['may: tcp', () => tcp('both.test:80')],
    ['may: platform', () => get('http://both.test:8787/')],
    ['closed', () => get('http://both.test:81/')],
  ]),
};
