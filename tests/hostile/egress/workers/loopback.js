// tries: this machine itself, by every name of loopback it can think of, at the platform's own ports
// seen: each is refused and nothing arrives
import { get, tcp, tries } from './tries.js';

const hosts = ['127.0.0.1', '127.9.9.9', 'localhost', 'LOCALHOST.', '0.0.0.0', '0.1.2.3', '[::1]', '[::]'];
const ports = [80, 4222, 8787];
export default {
  fetch: () => tries(hosts.flatMap((host) => ports.flatMap((port) => [
    [`http ${host}:${port}`, () => get(`http://${host}:${port}/`)],
    [`tcp ${host}:${port}`, () => tcp(`${host}:${port}`)],
  ]))),
};
