// tries: public servers that redirect to what is not public, also over several hops and by 307 with a body
// seen: each hop is checked like the first; nothing arrives
import { all, get, literal, named, tries } from './tries.js';

const chain = (target, hops) => (hops === 0 ? target : `http://public.test/to/${chain(target, hops - 1)}`);
const targets = [...all.map((at) => `http://${literal(at)}/`), ...all.map((at) => `http://${named(at)}/`),
  'http://2130706433/', 'http://localhost:8787/', 'http://turning.test.:8787@127.0.0.1/'];
export default {
  fetch: () => tries([
    ['may: to a public one', () => get(chain('http://listed.test/', 3))],
    ...targets.map((target) => [`1 ${target}`, () => get(chain(target, 1))]),
    ...targets.slice(0, 8).map((target) => [`4 ${target}`, () => get(chain(target, 4))]),
    ['post', () => get(chain('http://127.0.0.1/', 1), { method: 'POST', body: 'secret' })],
    ['file', () => get(chain('file:///etc/passwd', 1))],
  ]),
};
