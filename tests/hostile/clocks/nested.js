// Tried: to be called by the prelude while it reads the running clock (a getter on
// Promise.prototype, which `then` asks for a promise's class), to burn CPU there and to read the
// clock in between: many readings of the running clock within one turn, one inside the other.
// Must be seen: one time in all of them; the clock goes on in the next turn.
const burn = () => { let sum = 0; for (let i = 0; i < 1e7; i += 1) sum += i; return sum; };
const wait = scheduler.wait.bind(scheduler);
const DEPTH_MAX = 5;
const native = Promise;
let times = null;
let depth = 0;

function read() {
  times.push(Date.now());
  burn();
  times.push(performance.now(), new Date().getTime());
}

Object.defineProperty(Promise.prototype, 'constructor', {
  get() {
    if (times !== null && depth < DEPTH_MAX) {
      depth += 1;
      burn();
      read();
      burn();
    }
    return native;
  },
});

async function turn() {
  times = [];
  depth = 0;
  read();
  burn();
  read();
  const seen = times;
  times = null;
  return seen;
}

export default {
  async fetch() {
    const first = await turn();
    await wait(20);
    const second = await turn();
    const before = [first[0], second[0]];
    const after = [first, second].map((seen) => new Set(seen).size === 1 ? seen[0] : [...new Set(seen)]);
    return Response.json({ before, after, advanced: { second: second[0] - first[0] >= 20 } });
  },
};
