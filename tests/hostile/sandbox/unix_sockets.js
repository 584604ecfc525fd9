// tries: to speak to unix sockets beside it
// contained: served
// settings: {"compatibility_flags": ["nodejs_compat"]}
import * as net from 'node:net';
import * as http from 'node:http';

function connected(where) {
  return new Promise((done, fail) => {
    const socket = net.connect(where, () => done('connected'));
    socket.on('error', fail);
    setTimeout(() => fail(new Error('silent')), 1000);
  });
}

// A door that opens returns something; one that holds throws, or returns nothing.
const DOORS = {
  path: () => connected({ path: '/run/docker.sock' }),
  bus: () => connected({ path: '/run/dbus/system_bus_socket' }),
  abstract: () => connected({ path: '\0kythera' }),
  web: () => new Promise((done, fail) => {
    http.get({ socketPath: '/run/docker.sock', path: '/' }, (response) => done(response.statusCode))
      .on('error', fail);
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
