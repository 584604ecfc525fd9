// tries: loopback and private addresses in decimal, octal, hexadecimal, short and full-width digits
// seen: each is refused and nothing arrives
import { get, tcp, tries } from './tries.js';

const forms = ['2130706433', '0x7f000001', '0x7f.1', '0177.0.0.1', '017700000001', '127.1', '127.0.1', '0', '0x0',
  '10.1', '0x0a000001', '012.0.0.1', '3232235521', '192.168.1', '１２７.0.0.1', '127。0。0。1', '%31%32%37.0.0.1',
  '127.0.0.1.', '[0:0:0:0:0:0:0:1]', '[::0001]'];
export default {
  fetch: () => tries(forms.flatMap((form) => [
    [`http ${form}`, () => get(`http://${form}/`)],
    [`tcp ${form}`, () => tcp(`${form}:80`)],
  ])),
};
