// tries: the names of the services beside it in its process, and those of the egress cell's
// seen: they are names like others: there is no such host, and nothing arrives
import { get, tcp, tries } from './tries.js';

const services = ['internet', 'egress', 'tunnels', 'outbound', 'worker', 'pulse', 'http', 'doors', 'counters', 'tail-sink',
  'assets', 'door', 'console', 'fake-host', 'metadata', 'kythera'];
export default {
  fetch: () => tries(services.flatMap((name) => [
    [`http ${name}`, () => get(`http://${name}/`)],
    [`post ${name}`, () => get(`http://${name}/`, { method: 'POST', body: '{"address":"127.0.0.1:80"}' })],
    [`tcp ${name}`, () => tcp(`${name}:1`)],
  ])),
};
