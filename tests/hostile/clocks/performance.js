// Tried: performance, from the global scope and from node:perf_hooks, methods taken off it and
// classes that the module has kept for itself.
// Must be seen: all the same before and after burning CPU; marks with a given time keep it.
import * as hooks from 'node:perf_hooks';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const { now } = performance;

function read() {
  performance.clearMarks();
  return {
    now: performance.now(),
    hooks: hooks.performance.now(),
    detached: now.call(performance),
    origin: performance.timeOrigin,
    mark: performance.mark('a').startTime,
    markJson: performance.mark('b').toJSON(),
    entry: performance.getEntriesByName('a')[0].startTime,
    made: new PerformanceMark('c').startTime,
    kept: new hooks.PerformanceMark('d').startTime,
    keptJson: new hooks.PerformanceMark('d').toJSON(),
    measure: performance.measure('e').duration,
    measureFrom: performance.measure('f', { start: 7 }).duration,
    measureJson: performance.measure('g', 'a').toJSON(),
    measureTo: performance.measure('h', { end: 9 }).duration,
    measureMissing: performance.measure('i', 'no such mark', 'nor such').duration,
    utilization: performance.eventLoopUtilization(),
    timerified: performance.timerify(() => performance.now())(),
  };
}

export default {
  fetch() {
    const given = performance.now() - 500;
    const itself = [
      performance.mark('x', { startTime: given }).startTime === given,
      new PerformanceMark('x', { startTime: given, detail: { a: 1 } }).detail.a === 1,
      performance.measure('x', { start: 3, duration: 4 }).duration === 4,
      performance.measure('x', { start: 3, end: 9, detail: { a: 1 } }).detail.a === 1,
      performance.measure('x', 'x').startTime === given,
    ];
    const before = read();
    burn();
    return Response.json({ before, after: read(), itself });
  },
};
