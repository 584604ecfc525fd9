// Clocks that stand still: within one turn of the event loop, whatever a worker can read a time
// from shows that of the turn's first reading (decisions/0010). Evaluated before any of the
// worker's own code. Keeps the running clock to itself; what runs later calls nothing that the
// worker could have put in its place. Outside of requests a clock shows 0, as in stock workerd.
import workers from 'cloudflare-internal:workers';

const { Object, TypeError } = globalThis;
const { apply, construct, defineProperty, getOwnPropertyDescriptor, getPrototypeOf } = Reflect;
const { notify, waitAsync } = Atomics;
const { then } = Promise.prototype;
const { get: mapGet, set: mapSet } = WeakMap.prototype;
const RunningDate = Date;
const running = Date.now;
const dateText = Date.prototype.toString;

const DAY_MS = 86_400_000;
const bell = new Int32Array(new SharedArrayBuffer(4));
let standing = 0; // This turn's time; 0: nobody has read it yet.

function forget() {
  standing = 0;
}

// A task of V8's own, which workerd runs when the turn's microtasks are done. No request is at hand
// then: whoever else runs so late reads 0 of the running clock, and cannot see it move. `then` may
// call the worker (a getter on Promise.prototype), and fail with it, but never hands `forget` out.
function forgetWhenTheTurnEnds() {
  const { value: rung } = waitAsync(bell, 0, 0);
  apply(then, rung, [forget]);
  notify(bell, 0);
}

function now() {
  if (standing === 0) {
    const time = running();
    if (time === 0) {
      return 0;
    }
    forgetWhenTheTurnEnds(); // First: it may fail, for want of stack.
    if (standing === 0) { // Else the worker was called, and has read the clock already.
      standing = time;
    }
  }
  return standing;
}

// -- putting something in another's place, before the worker's code is there ---------------------

function holderOf(object, name) {
  let at = object;
  while (at && !getOwnPropertyDescriptor(at, name)) {
    at = getPrototypeOf(at);
  }
  return at;
}

function put(object, name, change) {
  const old = getOwnPropertyDescriptor(object, name);
  defineProperty(object, name, { __proto__: null, ...old, ...change });
}

// Methods and getters; where the engine lacks one, it stays absent.
function putAll(object, replacements) {
  for (const name of Reflect.ownKeys(replacements)) {
    const holder = holderOf(object, name);
    if (holder) {
      const { get, value } = getOwnPropertyDescriptor(replacements, name);
      put(holder, name, get ? { get } : { value });
    }
  }
}

function putClass(name, traps) {
  const holder = holderOf(globalThis, name);
  if (holder) {
    const value = new Proxy(holder[name], { __proto__: null, ...traps });
    put(holder, name, { value });
    put(value.prototype, 'constructor', { value });
  }
}

function getterOf(object, name) {
  const holder = holderOf(object, name);
  return holder && getOwnPropertyDescriptor(holder, name).get;
}

// A native function's options: one of ours, and behind it those given, getters and all. The time is
// the given one or now; what is no options at all is left for the native function to refuse.
function optionsWithTime(given, name) {
  const nothing = given === undefined || given === null;
  if (!nothing && Object(given) !== given) {
    return given;
  }
  const time = nothing ? undefined : given[name];
  return { __proto__: nothing ? null : given, [name]: time === undefined ? now() : time };
}

// -- Date, Intl, Temporal ------------------------------------------------------------------------

putAll(RunningDate, { now() { return now(); } });
putClass('Date', {
  apply() {
    return apply(dateText, new RunningDate(now()), []);
  },
  construct(target, given, newTarget) {
    return construct(target, given.length === 0 ? [now()] : given, newTarget);
  },
});
const StandingDate = globalThis.Date;

function standStillInIntl() {
  const { prototype } = Intl.DateTimeFormat;
  const { formatToParts } = prototype;
  const nativeFormat = getterOf(prototype, 'format');
  const formats = new WeakMap();
  putAll(prototype, {
    get format() {
      const native = apply(nativeFormat, this, []);
      let ours = apply(mapGet, formats, [native]);
      if (ours === undefined) {
        ours = (date) => native(date === undefined ? now() : date);
        apply(mapSet, formats, [native, ours]);
      }
      return ours;
    },
    formatToParts(date) {
      return apply(formatToParts, this, [date === undefined ? now() : date]);
    },
  });
}
standStillInIntl();

function standStillInTemporal({ Instant, Now, ZonedDateTime }) {
  const { fromEpochMilliseconds } = Instant;
  const { toZonedDateTimeISO } = Instant.prototype;
  const { toPlainDate, toPlainDateTime, toPlainTime } = ZonedDateTime.prototype;
  const { timeZoneId } = Now;
  const instant = () => apply(fromEpochMilliseconds, Instant, [now()]);
  const zoned = (zone) =>
    apply(toZonedDateTimeISO, instant(), [zone === undefined ? timeZoneId() : zone]);
  putAll(Now, {
    instant() { return instant(); },
    zonedDateTimeISO(zone) { return zoned(zone); },
    plainDateTimeISO(zone) { return apply(toPlainDateTime, zoned(zone), []); },
    plainDateISO(zone) { return apply(toPlainDate, zoned(zone), []); },
    plainTimeISO(zone) { return apply(toPlainTime, zoned(zone), []); },
  });
}
if (globalThis.Temporal) {
  standStillInTemporal(globalThis.Temporal);
}

// -- times that workerd stamps on objects --------------------------------------------------------

// A way to hide the stamps of a class: `given` are the times that we stamped ourselves, or that the
// worker chose. Anything else may be a reading of the running clock (a file of a form; what a
// class made that some module of workerd's has kept), and the time of its first look stands for
// it. What is more than a day off was chosen by the worker.
function stamps(native) {
  const given = new WeakMap();
  return {
    keep(object) {
      apply(mapSet, given, [object, apply(native, object, [])]);
      return object;
    },
    timeOf(object) {
      const stamp = apply(native, object, []);
      const known = apply(mapGet, given, [object]);
      const time = now();
      if (known !== undefined || stamp < time - DAY_MS || stamp > time + DAY_MS) {
        return known ?? stamp;
      }
      apply(mapSet, given, [object, time]);
      return time;
    },
  };
}

function standStillInFile() {
  const { keep, timeOf } = stamps(getterOf(File.prototype, 'lastModified'));
  putAll(File.prototype, { get lastModified() { return timeOf(this); } });
  putClass('File', {
    construct(target, given, newTarget) {
      const options = optionsWithTime(given[2], 'lastModified');
      return keep(construct(target, [given[0], given[1], options], newTarget));
    },
  });
}
standStillInFile();

function standStillInEntries() {
  const { keep, timeOf } = stamps(getterOf(PerformanceEntry.prototype, 'startTime'));
  const hidingStamps = (toJSON) => ({
    toJSON() { return { ...apply(toJSON, this, []), startTime: timeOf(this) }; },
  });
  for (const { prototype } of [PerformanceEntry, PerformanceMark, PerformanceMeasure]) {
    putAll(prototype, hidingStamps(prototype.toJSON));
  }
  putAll(PerformanceEntry.prototype, { get startTime() { return timeOf(this); } });
  putClass('PerformanceMark', {
    construct(target, given, newTarget) {
      const options = optionsWithTime(given[1], 'startTime');
      return keep(construct(target, [given[0], options], newTarget));
    },
  });
  return { keep, timeOf };
}

function standStillInMarks() {
  const { keep, timeOf } = standStillInEntries();
  const { mark, measure, getEntriesByName } = performance;
  const timeOfMark = (self, name) => {
    const marks = apply(getEntriesByName, self, [name, 'mark']);
    return marks.length === 0 ? undefined : timeOf(marks[0]);
  };
  const spanBetween = (self, start, end) => {
    const from = start === undefined ? 0 : timeOfMark(self, start);
    const to = end === undefined ? undefined : timeOfMark(self, end);
    return { __proto__: null, start: from ?? 0, end: to ?? now() };
  };
  const spanOf = (options) =>
    options.duration === undefined ? optionsWithTime(options, 'end') : options;
  putAll(performance, {
    mark(name, options) {
      return keep(apply(mark, this, [name, optionsWithTime(options, 'startTime')]));
    },
    measure(name, options, endMark) {
      const isObject = Object(options) === options;
      const span = isObject ? spanOf(options) : spanBetween(this, options ?? undefined, endMark);
      return keep(apply(measure, this, [name, span]));
    },
  });
}

putAll(performance, { now() { return now(); } });
if (globalThis.PerformanceEntry) {
  standStillInMarks();
}

function standStillInScheduled() {
  const { prototype } = workers.ServiceStub;
  const { scheduled } = prototype;
  putAll(prototype, {
    scheduled(options) {
      return apply(scheduled, this, [optionsWithTime(options, 'scheduledTime')]);
    },
  });
}
standStillInScheduled();

// A wait with a time-out is a clock for V8's own tasks, which all run within one turn. No other
// thread is there that could notify, and Atomics.wait is refused by workerd itself.
putAll(Atomics, {
  waitAsync(array, index, value, timeout) {
    const wait = timeout === undefined ? Infinity : +timeout;
    if (wait > 0 && wait < Infinity) {
      throw new TypeError('Atomics.waitAsync has no time-outs while clocks stand still.');
    }
    return waitAsync(array, index, value, wait);
  },
});

// For scripts in service-worker format, whose global `Date` is set to what this returns.
export default () => StandingDate;
