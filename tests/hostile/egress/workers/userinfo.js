// tries: URLs that read like one host and mean another: user names, backslashes, fragments, tabs, ports
// seen: the host that is meant is the one that is checked; nothing arrives
import { get, tries } from './tries.js';

const urls = ['http://public.test@127.0.0.1/', 'http://public.test:80@127.0.0.1:8787/', 'http://127.0.0.1#@public.test/',
  'http://127.0.0.1?@public.test/', 'http://127.0.0.1\\@public.test/', 'http:127.0.0.1/', 'http:///127.0.0.1/',
  'http:\\\\127.0.0.1\\', 'http://127.0.0.1\t/', ' http://127.0.0.1/', 'http://127.0.0.1:00080/', 'http://127.0.0.1:65616/',
  'http://public.test%00.127.0.0.1/', 'http://public.test%2f@127.0.0.1/', 'http://localhost%23.public.test/'];
export default { fetch: () => tries(urls.map((url) => [url, () => get(url)])) };
