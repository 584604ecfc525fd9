// Entry points as classes, with state of the instance, inherited methods, and the environment.
import { WorkerEntrypoint, env as shared } from 'cloudflare:workers';
class Base extends WorkerEntrypoint {
  greet(name) {
    return `${this.env.GREETING}, ${name}`;
  }
}
export default class extends Base {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    this.ctx.waitUntil(Promise.resolve());
    return Response.json({
      text: this.greet(pathname.slice(1)),
      settings: this.env.SETTINGS,
      shared: shared.GREETING,
      number: typeof this.env.SETTINGS.number,
    });
  }
}
