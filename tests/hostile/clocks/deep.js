// Tried: to read the clock where the stack is at its end, so that the prelude fails half-way: the
// turn's time would be forgotten too early, or never.
// Must be seen: the clock stands within the turn, and goes on in the next one.
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };

function dive(times) {
  try {
    dive(times);
  } catch {
    // At the end of the stack, and with each frame that ends a little before it.
  }
  try {
    times.push(Date.now(), performance.now());
  } catch {
    // Still too deep.
  }
}

export default {
  async fetch() {
    const times = [];
    dive(times);
    burn();
    dive(times);
    const before = [1];
    const after = [new Set(times).size];
    const first = times[0];
    await scheduler.wait(20);
    const then = Date.now();
    await scheduler.wait(20);
    const advanced = { once: then - first >= 20, twice: Date.now() - then >= 20 };
    return Response.json({ before, after, advanced });
  },
};
