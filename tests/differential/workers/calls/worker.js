// A worker that calls an entry point of its own over a service binding.
import { RpcTarget, WorkerEntrypoint } from 'cloudflare:workers';
class Tally extends RpcTarget {
  #sum = 0;
  add(number) {
    this.#sum += number;
    return this.#sum;
  }
}
export class Sums extends WorkerEntrypoint {
  sum(...numbers) {
    return numbers.reduce((a, b) => a + b, 0);
  }
  tally() {
    return new Tally();
  }
  async each(items, change) {
    return Promise.all(items.map((item) => change(item)));
  }
  kinds(value) {
    return [value instanceof Map, value instanceof Date, typeof value, Array.isArray(value)];
  }
  fails() {
    throw new RangeError('too far');
  }
}
async function tried(what) {
  try {
    return await what();
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}
export default {
  async fetch(request, { SUMS }) {
    const tally = await SUMS.tally();
    await tally.add(2);
    return Response.json({
      sum: await SUMS.sum(1, 2, 3), tallied: await tally.add(40), piped: await SUMS.tally().add(5),
      each: await SUMS.each(['a', 'b'], (item) => item.toUpperCase()),
      map: await SUMS.kinds(new Map()), date: await SUMS.kinds(new Date(0)), list: await SUMS.kinds([]),
      fails: await tried(() => SUMS.fails()), missing: await tried(() => SUMS.nothing()),
    });
  },
};
