// Timers, their order, and what aborts.
export default {
  async fetch() {
    const order = [];
    const done = new Promise((resolve) => {
      setTimeout(() => { order.push('second'); resolve(); }, 20);
      setTimeout(() => order.push('first'), 5);
      const never = setTimeout(() => order.push('never'), 1);
      clearTimeout(never);
      queueMicrotask(() => order.push('microtask'));
    });
    order.push('now');
    await done;
    let ticks = 0;
    await new Promise((resolve) => {
      const interval = setInterval(() => {
        ticks += 1;
        if (ticks === 3) {
          clearInterval(interval);
          resolve();
        }
      }, 2);
    });
    const reasons = [];
    await scheduler.wait(1_000, { signal: AbortSignal.timeout(5) }).catch((error) => reasons.push(error.name));
    const any = AbortSignal.any([AbortSignal.abort('because'), new AbortController().signal]);
    return Response.json({ order, ticks, reasons, any: any.reason, passed: setTimeout((a, b) => a + b, 0, 1, 2) > 0 });
  },
};
