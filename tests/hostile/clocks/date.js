// Tried: Date in every way that it can be asked for now.
// Must be seen: all the same before and after burning CPU, and a Date that is still itself.
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
class Mine extends Date {}
const { now } = Date;

function read() {
  return {
    now: Date.now(),
    detached: now(),
    new: new Date().getTime(),
    json: new Date().toJSON(),
    valueOf: +new Date(),
    subclass: new Mine().getTime(),
    construct: Reflect.construct(Date, []).getTime(),
    constructAsObject: Date.prototype.getTime.call(Reflect.construct(Date, [], Mine)),
    instance: new (new Date(0).constructor)().getTime(),
    species: new (Object.getPrototypeOf(Mine))().getTime(),
    bound: new (Date.bind(null))().getTime(),
    self: self.Date.now(),
    locale: new Date().toLocaleTimeString('en', { fractionalSecondDigits: 3 }),
    parts: new Date().getMilliseconds(),
    cloned: structuredClone(new Date()).getTime(),
  };
}

export default {
  fetch() {
    const itself = [
      new Date(5).getTime() === 5,
      new Date(2020, 1, 2).getMonth() === 1,
      Number.isNaN(new Date(undefined).getTime()),
      new Date() instanceof Date && new Mine() instanceof Mine && new Mine() instanceof Date,
      Date.length === 7 && Date.name === 'Date' && typeof Date() === 'string',
      new Date().constructor === Date && Object.keys(globalThis).includes('Date') === false,
      String(Date) === 'function Date() { [native code] }' || String(Date).includes('native code'),
      Date() === new Date().toString(),
    ];
    const before = read();
    burn();
    return Response.json({ before, after: read(), itself });
  },
};
