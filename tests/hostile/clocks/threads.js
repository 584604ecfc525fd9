// Tried: a clock that somebody else turns: a second thread that counts in shared memory, a wait that
// blocks, a WebAssembly memory that is shared.
// Must be seen: there is no second thread, nothing blocks, and shared memory does not move by itself.
import * as threads from 'node:worker_threads';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const attempt = (call) => { try { return typeof call(); } catch (error) { return error.name; } };
const shared = new Int32Array(new SharedArrayBuffer(8));
const memory = attempt(() => new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }));
const URL_OF_CODE = 'data:text/javascript,onmessage=(e)=>{for(;;)e.data[0]++}';

function read() {
  return [shared[0], shared[1], Date.now()];
}

export default {
  fetch() {
    const refused = [
      attempt(() => Atomics.wait(shared, 0, 0, 10)),
      attempt(() => new threads.Worker(URL_OF_CODE, { workerData: shared })),
      attempt(() => new Worker(URL_OF_CODE)),
      attempt(() => new SharedWorker(URL_OF_CODE)),
      attempt(() => new threads.BroadcastChannel('x')),
    ];
    const before = read();
    burn();
    return Response.json({ before, after: read(), refused, memory });
  },
};
