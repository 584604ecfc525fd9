// tries: IPv6 addresses of links, sites, multicast groups and nobody, with zones as well
// seen: each is refused and nothing arrives
import { get, named, tcp, tries, world } from './tries.js';

const six = world.FORBIDDEN.filter((at) => at.includes(':'));
const zones = ['[fe80::1%25lo]', '[fe80::1%lo]', '[ff02::1%25lo]'];
export default {
  fetch: () => tries([
    ...six.flatMap((at) => [
      [`tcp ${at}`, () => tcp(`[${at}]:80`)],
      [`tcp name ${at}`, () => tcp(`${named(at)}:80`)],
      [`https ${at}`, () => get(`https://[${at}]/`)],
    ]),
    ...zones.flatMap((at) => [[at, () => get(`http://${at}/`)], [`tcp ${at}`, () => tcp(`${at}:80`)]]),
  ]),
};
