// tries: to listen for others
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as net from 'node:net';
import * as http from 'node:http';
import * as dgram from 'node:dgram';

function listening(server, port) {
  return new Promise((done, fail) => {
    server.on('error', fail);
    server.listen({ port, host: '0.0.0.0' }, () => {
      const at = server.address();
      // workerd lets a worker listen within itself; an address of the machine would be the breach.
      done(at !== null && typeof at === 'object' && at.family ? '' : String(at));
    });
    setTimeout(() => fail(new Error('silent')), 500);
  });
}

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  tcp: () => listening(net.createServer(), 0),
  web: () => listening(http.createServer(), 0),
  udp: () => new Promise((done, fail) => {
    const socket = dgram.createSocket('udp4');
    socket.on('error', fail);
    socket.bind(0, () => done('bound'));
    setTimeout(() => fail(new Error('silent')), 500);
  }),
};

export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const reached = [];
    for (const [name, open] of Object.entries(DOORS)) {
      try {
        const found = await open();
        if (found) reached.push(`${name}: ${String(found).slice(0, 200)}`);
      } catch {
        continue;
      }
    }
    return new Response(reached.length === 0 ? 'contained' : `reached: ${reached.join('; ')}`);
  },
};
