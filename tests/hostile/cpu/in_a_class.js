// tries: a loop in an entrypoint's constructor
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
import { WorkerEntrypoint } from 'cloudflare:workers';

export default class extends WorkerEntrypoint {
  fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    return new (class { constructor() { for (;;); } })();
  }
}
