// tries: to make or guess the name under which a tunnel of somebody else waits
// seen: a ticket is nothing that a worker can ask for or use; nothing arrives
import { get, tcp, tries } from './tries.js';

const ask = { method: 'POST', body: '{"address":"127.0.0.1:8787"}' };
export default {
  fetch: () => tries([
    ['ask', () => get('http://egress/', ask)],
    ['ask by header', () => get('http://egress/', { ...ask, headers: { 'X-Kythera-Connect': 'ticket' } })],
    ...Array.from({ length: 20 }, (_, n) => [`guess ${n}`, () => tcp(`${crypto.randomUUID()}:1`)]),
    ['empty', () => tcp(':1')],
    ['long', () => tcp(`${'a'.repeat(250)}:1`)],
  ]),
};
