// tries: every address that is not public, behind a name of its own
// seen: each is refused after DNS and nothing arrives
import { all, get, named, tries } from './tries.js';

export default { fetch: () => tries(all.map((at) => [at, () => get(`http://${named(at)}/`)])) };
