// tries: this machine by its own public address, where no firewall stands between it and itself
// seen: the ports of the front door are reached, no other
import { get, named, tcp, tries, world } from './tries.js';

export default {
  fetch: () => tries([
    ['must: front door', () => get(`http://${world.OWN}:8080/`)],
    ['must: front door by name', () => get(`http://${named(world.OWN)}:8080/`)],
    ['must: front door by tcp', () => tcp(`${named(world.OWN)}:8080`)],
    ...[80, 443, 4222, 8787].flatMap((port) => [
      [`http ${port}`, () => get(`http://${world.OWN}:${port}/`)],
      [`http name ${port}`, () => get(`http://${named(world.OWN)}:${port}/`)],
      [`tcp ${port}`, () => tcp(`${named(world.OWN)}:${port}`)],
    ]),
  ]),
};
