// Tried: V8's own tasks, which workerd runs at the very end of a turn: to be called there by
// Atomics.waitAsync, before and after the prelude has forgotten the turn's time; to count how many
// of them fit into a wait with a time-out, which is a clock without a clock.
// Must be seen: what is read there is the turn's time or 0, and no wait has a time-out.
const burn = () => { let sum = 0; for (let i = 0; i < 1e7; i += 1) sum += i; return sum; };
const cell = () => new Int32Array(new SharedArrayBuffer(4));
const wait = scheduler.wait.bind(scheduler);
const HOPS_MAX = 2000;

function task(call) {
  const bell = cell();
  Atomics.waitAsync(bell, 0, 0).value.then(call);
  Atomics.notify(bell, 0);
}

function count(timeout) {
  return new Promise((resolve) => {
    let hops = 0;
    let isOver = false;
    try {
      Atomics.waitAsync(cell(), 0, 0, timeout).value.then(() => { isOver = true; });
    } catch (error) {
      resolve(error.name);
      return;
    }
    const hop = () => {
      hops += 1;
      burn();
      if (!isOver && hops < HOPS_MAX) { task(hop); } else { resolve(hops); }
    };
    task(hop);
  });
}

export default {
  async fetch() {
    const seen = new Set();
    const look = (hops) => {
      [Date.now(), new Date().getTime(), performance.now()].forEach((time) => seen.add(time));
      burn();
      if (hops > 0) task(() => look(hops - 1));
    };
    task(() => look(5)); // Before the prelude's own task …
    seen.add(Date.now());
    task(() => look(5)); // … and behind it.
    burn();
    look(0);
    await wait(1);
    const before = 1;
    const after = [...seen].filter((time) => time !== 0).length;
    const spied = { valueOf: () => 5 };
    const waits = [];
    [5, '5', spied, 0.5].forEach((timeout, at) => {
      count(timeout).then((result) => { waits[at] = result; });
    });
    await wait(300);
    const itself = [Atomics.waitAsync(cell(), 0, 0, 0).value === 'timed-out',
      Atomics.waitAsync(cell(), 0, 1).value === 'not-equal',
      Atomics.waitAsync(cell(), 0, 0, Infinity).async];
    return Response.json({ before: [before, ...waits.map(() => 'TypeError')], after: [after, ...waits], itself });
  },
};
