// tries: connect() and node:net to what is not public, by number, name and object
// seen: each is refused and nothing arrives
import net from 'node:net';
import { all, literal, named, tcp, tries } from './tries.js';

const node = (host, port) => new Promise((resolve, reject) => {
  const socket = net.connect({ host, port });
  socket.on('connect', () => socket.write('GET /net HTTP/1.0\r\n\r\n'));
  socket.on('data', (data) => { resolve(data); socket.destroy(); });
  socket.on('error', reject);
  socket.on('close', () => reject(new Error('closed')));
});
export default {
  fetch: () => tries(all.flatMap((at) => [
    [`tcp ${at}`, () => tcp(`${literal(at)}:8787`)],
    [`tcp name ${at}`, () => tcp({ hostname: named(at), port: 4222 })],
    [`net ${at}`, () => node(at, 80)],
    [`net name ${at}`, () => node(named(at), 8080)],
  ])),
};
