// tries: TLS inside connect(), startTls() and node:tls to what is not public
// seen: each is refused and nothing arrives, whatever name the socket goes out under
import tls from 'node:tls';
import { connect } from 'cloudflare:sockets';
import { all, literal, named, tcp, tries } from './tries.js';

const node = (host, port) => new Promise((resolve, reject) => {
  const socket = tls.connect({ host, port }, () => resolve('secure'));
  socket.on('error', reject);
  socket.on('close', () => reject(new Error('closed')));
});
async function upgraded(address) {
  const socket = connect(address, { secureTransport: 'starttls' });
  await socket.opened;
  return tcp(address, { secureTransport: 'starttls' });
}
// A name such as ours, typed by the worker itself: its answer is a word of the egress cell's.
async function byHand(address) {
  const socket = connect(address);
  socket.writable.getWriter().write(new TextEncoder().encode('GET /tcp HTTP/1.0\r\n\r\n')).catch(() => {});
  const said = await new Response(socket.readable).text();
  if (said.startsWith('-')) {
    throw new Error(said);
  }
  if (said === '') {
    throw new Error('nothing came back');
  }
  return said;
}
const under = (at) => at.replaceAll(':', '-');
export default {
  fetch: () => tries(all.flatMap((at) => [
    [`on ${at}`, () => tcp(`${literal(at)}:443`, { secureTransport: 'on' })],
    [`on name ${at}`, () => tcp({ hostname: named(at), port: 443 }, { secureTransport: 'on' })],
    [`starttls ${at}`, () => upgraded(`${literal(at)}:8787`)],
    [`starttls name ${at}`, () => upgraded(`${named(at)}:4222`)],
    [`node ${at}`, () => node(at, 443)],
    [`by hand ${at}`, () => byHand(`${under(at)}.literal.starttls.kythera-tls:8080`)],
    [`by hand name ${at}`, () => byHand(`${named(at)}.on.kythera-tls:8080`)],
  ])),
};
