// The rate-limiting binding: `await env.LIMITER.limit({ key })` → `{ success }`.
//
// An internal module of workerd's: the worker sees the object that it makes, never its service.
// Counters that cannot be asked limit nobody: a worker does not fail because of them.

const KNOWN = ["key", "limit", "period", "delta"];
const PERIODS = [10, 60];
const ANSWER_MS_MAX = 2_000;

function refuse(message) {
  throw new Error(message);
}

function read(options, own) {
  if (typeof options !== "object" || options === null) refuse("invalid rate limit options");
  const unknown = Object.keys(options).filter((name) => !KNOWN.includes(name));
  if (unknown.length > 0) refuse(`bad rate limit options: [${unknown.join(",")}]`);
  const { key = "", limit = own.limit, period = own.period, delta = 1 } = options;
  if (typeof key !== "string") refuse(`invalid key: ${String(key)}`);
  if (!Number.isInteger(limit) || limit < 0) refuse(`limit must be a number: ${String(limit)}`);
  if (!PERIODS.includes(period)) refuse(`unsupported period: ${String(period)}`);
  if (!Number.isInteger(delta) || delta < 1 || delta > 0xffffffff) {
    refuse(`delta must be a positive integer: ${String(delta)}`);
  }
  return { key: key.toWellFormed(), limit, period, delta };
}

class RateLimit {
  #counters;
  #own;

  constructor(counters, own) {
    this.#counters = counters;
    this.#own = own;
  }

  async limit(options) {
    const body = JSON.stringify(read(options, this.#own));
    try {
      const signal = AbortSignal.timeout(ANSWER_MS_MAX);
      const request = { method: "POST", body, signal };
      const response = await this.#counters.fetch("http://ratelimit/", request);
      if (!response.ok) {
        await response.body?.cancel();
        return { success: true };
      }
      return await response.json();
    } catch {
      return { success: true };
    }
  }
}

export default function (env) {
  return new RateLimit(env.counters, env.own);
}
