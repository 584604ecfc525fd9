// tries: a name that leads to a public address first and to loopback the next time, many times over
// seen: what is reached is public each time; what leads to loopback is refused; nothing arrives there
import { get, tcp, tries } from './tries.js';

const many = Array.from({ length: 40 }, (_, n) => n);
export default {
  fetch: () => tries(many.flatMap((n) => [
    [`may: http ${n}`, () => get(`http://turning.test/?${n}`)],
    [`may: tcp ${n}`, () => tcp('turning.test:80')],
  ])),
};
