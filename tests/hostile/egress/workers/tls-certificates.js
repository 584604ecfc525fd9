// tries: TLS with servers whose certificates are good, of another name, expired, or signed by nobody
// seen: the good one alone is spoken with, at once, after startTls() and through node:tls; each
// error says what was wrong
import net from 'node:net';
import tls from 'node:tls';
import { connect } from 'cloudflare:sockets';
import { tries, world } from './tries.js';

const NAME = 'public.test';
const bytes = (text) => new TextEncoder().encode(text);

async function talk(socket) {
  const writer = socket.writable.getWriter();
  await writer.write(bytes('hello'));
  const reader = socket.readable.getReader();
  const { value } = await reader.read();
  await socket.close();
  return new TextDecoder().decode(value);
}
const on = (port, hostname = NAME) => talk(connect({ hostname, port }, { secureTransport: 'on' }));
async function opened(port) {
  await connect({ hostname: NAME, port }, { secureTransport: 'on' }).opened;
  return 'opened';
}
async function closed(port) {
  await connect({ hostname: NAME, port }, { secureTransport: 'on' }).closed;
}
async function upgraded(port, options) {
  const socket = connect({ hostname: NAME, port }, { secureTransport: 'starttls' });
  const writer = socket.writable.getWriter();
  await writer.write(bytes('please'));
  const reader = socket.readable.getReader({ mode: 'byob' });
  const { value } = await reader.read(new Uint8Array(1));
  writer.releaseLock();
  reader.releaseLock();
  const secure = socket.startTls(options);
  const states = [socket.upgraded, socket.secureTransport, secure.upgraded, secure.secureTransport];
  await secure.opened;
  return `${new TextDecoder().decode(value)} ${await talk(secure)} ${states}`;
}
// Writes that nobody waited for go out in clear, before TLS.
async function hurried(port) {
  const socket = connect({ hostname: NAME, port }, { secureTransport: 'starttls' });
  const writer = socket.writable.getWriter();
  writer.write(bytes('ple'));
  writer.write(bytes('ase'));
  writer.releaseLock();
  const reader = socket.readable.getReader();
  await reader.read();
  reader.releaseLock();
  return talk(socket.startTls());
}
const ended = (socket, first) => new Promise((resolve, reject) => {
  let said = first;
  socket.on('data', (data) => { said += data; if (said.endsWith('hello')) { resolve(said); socket.destroy(); } });
  socket.on('error', reject);
});
function node(port, options) {
  const socket = tls.connect({ host: NAME, port, ...options }, () => socket.write('hello'));
  return ended(socket, '');
}
const nodeUpgraded = (port, options) => new Promise((resolve, reject) => {
  const socket = net.connect({ host: NAME, port }, () => socket.write('please'));
  socket.on('error', reject);
  socket.once('data', (said) => {
    const secure = tls.connect({ socket, ...options }, () => secure.write('hello'));
    ended(secure, `${said} `).then(resolve, reject);
  });
});
async function twice(port) {
  const socket = connect({ hostname: NAME, port }, { secureTransport: 'on' });
  socket.startTls();
}
const { TLS, STARTTLS, PUSHY } = world;
export default {
  async fetch() {
    return tries([
      ['must: on', () => on(TLS.good)],
      ['must: opened', () => opened(TLS.good)],
      ['must: starttls', () => upgraded(STARTTLS.good)],
      ['must: starttls of a name', () => upgraded(STARTTLS.wrong, { expectedServerHostname: 'other.test' })],
      ['must: hurried', () => hurried(STARTTLS.good)],
      ['must: node', () => node(TLS.good)],
      ['must: node starttls', () => nodeUpgraded(STARTTLS.good, { servername: NAME })],
      ['must: node starttls unnamed', () => nodeUpgraded(STARTTLS.good)],
      ...Object.keys(TLS).filter((kind) => kind !== 'good').flatMap((kind) => [
        [`on ${kind}`, () => on(TLS[kind])],
        [`opened ${kind}`, () => opened(TLS[kind])],
        [`closed ${kind}`, () => closed(TLS[kind])],
        [`starttls ${kind}`, () => upgraded(STARTTLS[kind])],
        [`node ${kind}`, () => node(TLS[kind])],
        [`node starttls ${kind}`, () => nodeUpgraded(STARTTLS[kind], { servername: NAME })],
      ]),
      ['starttls of another name', () => upgraded(STARTTLS.good, { expectedServerHostname: 'other.test' })],
      ['must: pushed in clear', () => upgraded(PUSHY)],
      ['no TLS there', () => on(STARTTLS.good)],
      ['nobody there', () => on(9)],
      ['no such name', () => on(443, 'nowhere.test')],
      ['twice', () => twice(TLS.good)],
    ]);
  },
};
