// tries: WebSockets to what is not public, by fetch, by the WebSocket class and by EventSource
// seen: each is refused and nothing arrives
import { tries, world } from './tries.js';

const by = (make) => new Promise((resolve, reject) => {
  const made = make();
  made.addEventListener('open', () => resolve('open'));
  made.addEventListener('message', () => resolve('message'));
  made.addEventListener('error', () => { made.close(); reject(new Error('error')); });
  made.addEventListener('close', () => reject(new Error('close')));
});
const hosts = ['127.0.0.1:8787', '[::1]:8787', '10.0.0.1', 'localhost', 'at-192-168-0-1.test'];
export default {
  fetch: () => tries(hosts.flatMap((host) => [
    [`fetch ${host}`, async () => {
      const { status } = await fetch(`http://${host}/`, { headers: { Upgrade: 'websocket' } });
      return status;
    }],
    [`class ${host}`, () => by(() => new WebSocket(`ws://${host}/`))],
    [`source ${host}`, () => by(() => new EventSource(`http://${host}/`))],
  ])),
  world,
};
