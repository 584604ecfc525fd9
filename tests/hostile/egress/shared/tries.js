// What the workers of this folder share: each attempt is made, and told as «reached» or «refused».
import { connect } from 'cloudflare:sockets';
import world from './world.js';

export { world };
export const named = (address) => `at-${address.replaceAll('.', '-').replaceAll(':', '-')}.test`;
export const literal = (address) => (address.includes(':') ? `[${address}]` : address);
export const all = [...world.FORBIDDEN, ...world.MULTICAST, ...world.MAPPED];

export async function get(url, init) {
  const answer = await fetch(url, init);
  return `${answer.status} ${await answer.text()}`;
}

export async function tcp(address, options) {
  const socket = connect(address, options);
  const writer = socket.writable.getWriter();
  await writer.write(new TextEncoder().encode('GET /tcp HTTP/1.0\r\n\r\n'));
  const text = await new Response(socket.readable).text();
  if (text === '') {
    throw new Error('nothing came back');
  }
  return text;
}

const LATE_MS = 20_000;
async function late() {
  await scheduler.wait(LATE_MS);
  return [true];
}

export async function tries(attempts) {
  const told = await Promise.all(attempts.map(async ([what, attempt]) => {
    try {
      const [isLate, said] = await Promise.race([attempt().then((text) => [false, text]), late()]);
      return [what, isLate ? 'neither' : 'reached', String(said)];
    } catch (error) {
      return [what, 'refused', String(error?.message ?? error)];
    }
  }));
  return Response.json(told);
}
