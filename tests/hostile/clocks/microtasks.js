// Tried: to be let go and called again without leaving the turn: await, promise chains,
// queueMicrotask, process.nextTick, generators, thenables, crypto's promises, streams at hand.
// Must be seen: not one of them moves a clock.
import process from 'node:process';
const burn = () => { let sum = 0; for (let i = 0; i < 2e7; i += 1) sum += i; return sum; };
const read = () => [Date.now(), performance.now(), new Date().getTime()];

async function* generator() { yield 1; yield 2; }

const WAYS = {
  awaitNothing: async () => { await undefined; },
  awaitResolved: async () => { await Promise.resolve(1); },
  awaitThenable: async () => { await { then(resolve) { resolve(); } }; },
  chain: () => Promise.resolve().then(() => {}).then(() => {}).finally(() => {}),
  microtask: () => new Promise((resolve) => { queueMicrotask(resolve); }),
  nextTick: () => new Promise((resolve) => { process.nextTick(resolve); }),
  all: () => Promise.all([1, Promise.resolve(2), Promise.allSettled([3])]),
  rejected: () => Promise.reject(new Error('x')).catch(() => {}),
  generator: async () => { for await (const each of generator()) String(each); },
  fromAsync: () => Array.fromAsync([1, 2]),
  imported: () => import('node:process'),
  hops: async () => { for (let i = 0; i < 1000; i += 1) await i; },
};

export default {
  async fetch() {
    const before = {};
    const after = {};
    for (const [name, way] of Object.entries(WAYS)) {
      // The first reading of a turn, whichever turn it is, and the last one.
      before[name] = read();
      burn();
      await way();
      burn();
      after[name] = read();
    }
    return Response.json({ before, after });
  },
};
