// Tried: to take the frozen clocks away, so that the running ones come to light behind them:
// delete, redefine, a fresh prototype, what classes inherit, other realms.
// Must be seen: what remains stands still, or is gone.
import vm from 'node:vm';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const attempt = (call) => { try { return String(call()); } catch (error) { return error.name; } };
const found = [Date, Date.prototype.constructor, Object.getPrototypeOf(class extends Date {}),
  new Proxy(Date, {}), structuredClone(new Date()).constructor];
const DateFormat = Intl.DateTimeFormat;

function remove() {
  for (const [object, names] of [
    [Date, ['now']], [Date.prototype, ['constructor']], [globalThis, ['Date', 'performance', 'File']],
    [Object.getPrototypeOf(performance), ['now', 'mark', 'measure']],
    [File.prototype, ['lastModified', 'constructor']], [DateFormat.prototype, ['format', 'formatToParts']],
  ]) {
    for (const name of names) attempt(() => delete object[name]);
  }
}

function read() {
  return [
    ...found.map((Found) => attempt(() => new Found().getTime())),
    ...found.map((Found) => attempt(() => Found())),
    attempt(() => Date.now()),
    attempt(() => new Date().getTime()),
    attempt(() => ServiceWorkerGlobalScope.prototype.Date.now()),
    attempt(() => performance.now()),
    attempt(() => new File([], 'x').lastModified),
    attempt(() => new DateFormat('en', { fractionalSecondDigits: 3 }).format()),
    attempt(() => new DateFormat('en', { fractionalSecondDigits: 3 }).formatToParts()[0].value),
    attempt(() => Date.prototype.toLocaleTimeString.call(new found[0](), 'en')),
    attempt(() => new ShadowRealm().evaluate('Date.now()')),
    attempt(() => vm.runInNewContext('Date.now()')),
    attempt(() => new vm.Script('Date.now()').runInThisContext()),
    attempt(() => new Function('return Date.now()')()),
    attempt(() => (0, eval)('Date.now()')),
  ];
}

export default {
  fetch() {
    const whole = read();
    remove();
    const before = read();
    burn();
    return Response.json({ before, after: read(), whole });
  },
};
