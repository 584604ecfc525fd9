// Main module of a trial: evaluates the worker as a cell would, then tells what it exports, on an
// entrypoint that nothing but the trial's private socket reaches.
import { WorkerEntrypoint } from 'cloudflare:workers';
import * as user from '%main%';
export * from '%main%';

const HANDLERS = [
  'fetch', 'scheduled', 'queue', 'email', 'tail', 'tailStream', 'trace', 'test', 'connect',
];

function handlersOf(value) {
  if (value === null || (typeof value !== 'object' && typeof value !== 'function')) {
    return [];
  }
  const handler = typeof value === 'function' ? value.prototype ?? {} : value;
  return HANDLERS.filter((name) => typeof handler[name] === 'function');
}

function isEntrypoint(name) {
  const value = user[name];
  return typeof value === 'function' || handlersOf(value).length > 0;
}

export class KytheraTrial extends WorkerEntrypoint {
  fetch() {
    return Response.json({
      handlers: handlersOf(user.default),
      is_class: typeof user.default === 'function',
      named_handlers: Object.keys(user).filter((name) => name !== 'default' && isEntrypoint(name)),
    });
  }
}

export default user.default ?? {};
