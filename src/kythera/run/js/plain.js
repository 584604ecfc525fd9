// Stands before a worker's main module where nothing is to be reported: an observed cell, or a
// worker that nobody asks. A default export that is absent becomes one without handlers.
import { reachable } from './kythera-entry.js';
import * as user from '%main%';
export * from '%main%';

export default reachable(user.default ?? {});
