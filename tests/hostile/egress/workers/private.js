// tries: every address that is not public, written as a number
// seen: each is refused by name and nothing arrives
import { all, get, literal, tries } from './tries.js';

export default { fetch: () => tries(all.map((at) => [at, () => get(`http://${literal(at)}/`)])) };
