// tries: files, unix sockets and whatever else a URL can name
// seen: each is refused; data: URLs hold what is written in them and nothing else
import { get, tcp, tries } from './tries.js';

const urls = ['file:///etc/passwd', 'file://localhost/proc/self/environ', 'unix:/run/egress.sock', 'unix:///run/egress.sock',
  'http+unix://%2frun%2fegress.sock/', 'http://unix:/run/egress.sock:/', 'ftp://127.0.0.1/', 'gopher://127.0.0.1:4222/_INFO',
  'ws://127.0.0.1/', 'blob:http://127.0.0.1/x', 'about:blank', 'javascript:1', 'tcp://127.0.0.1:4222/'];
const sockets = ['unix:/run/egress.sock', '/run/egress.sock', 'unix-abstract:x:1', 'egress.sock:1'];
export default {
  fetch: () => tries([
    ...urls.map((url) => [url, () => get(url)]),
    ...sockets.map((at) => [`tcp ${at}`, () => tcp(at)]),
    ['must: data', () => get('data:text/plain,written')],
  ]),
};
