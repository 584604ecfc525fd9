// The engine's table of consumers. It makes it once, when it is loaded, with Object.fromEntries; whoever
// imports this module before the engine has that table, and may change it: another consumer then wants
// no other process, which would end what is being delivered. Null: this engine makes it otherwise.
const { fromEntries } = Object;
let table = null;

Object.fromEntries = (entries) => {
  Object.fromEntries = fromEntries;
  table = fromEntries(entries);
  return table;
};

// Puts these consumers in the place of all; returns the queues whose consumer is another now.
function changed(consumers) {
  const found = Object.keys(consumers).filter(
    (queue) => JSON.stringify(table[queue]) !== JSON.stringify(consumers[queue]),
  );
  for (const queue of Object.keys(table)) {
    delete table[queue];
  }
  Object.assign(table, consumers);
  return found;
}

// Call it when the engine is loaded.
export function consumersOf() {
  Object.fromEntries = fromEntries;
  return table === null ? null : changed;
}
