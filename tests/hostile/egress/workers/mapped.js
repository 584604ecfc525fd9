// tries: IPv4 addresses inside IPv6 ones: mapped, compatible, translated, NAT64, 6to4, Teredo
// seen: each is refused, public ones too, and nothing arrives
import { get, tcp, tries } from './tries.js';

const forms = ['::ffff:127.0.0.1', '::ffff:7f00:1', '::ffff:a00:1', '::127.0.0.1', '::ffff:0:127.0.0.1',
  '64:ff9b::127.0.0.1', '64:ff9b::10.0.0.1', '64:ff9b:1::1', '2002:7f00:1::1', '2002:a00:1::1', '2001::1', '::ffff:8.8.4.4'];
export default {
  fetch: () => tries(forms.flatMap((form) => [
    [`http ${form}`, () => get(`http://[${form}]/`)],
    [`tcp ${form}`, () => tcp(`[${form}]:80`)],
  ])),
};
