// Tried: to import the modules that stand before the worker, by every name that might do, and to
// call and evaluate what they hand out.
// Must be seen: nothing that they export moves a clock, or begins a turn.
const NAMES = ['kythera:clocks', './kythera:clocks', 'kythera-prelude.js', './kythera-prelude.js',
  'file:///bundle/kythera-prelude.js', 'kythera:clocks?again', 'kythera:clocks#again',
  './kythera-prelude.js?again', 'KYTHERA:clocks', 'cloudflare-internal:workers'];
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const read = () => [Date.now(), new Date().getTime(), performance.now()];
let nested = false;

async function callAll(modules, request) {
  for (const module of modules) {
    for (const value of Object.values(module)) {
      try { await value(); } catch { /* Not callable so. */ }
      try { await value.fetch(request, {}, {}); } catch { /* Nor so. */ }
    }
  }
}

export default {
  async fetch(request) {
    if (nested) {
      return new Response('nested');
    }
    nested = true;
    const modules = [];
    for (const name of NAMES) {
      try { modules.push(await import(name)); } catch { /* No such module. */ }
    }
    const before = read();
    burn();
    await callAll(modules, request);
    burn();
    const after = read();
    nested = false;
    return Response.json({ before, after, found: modules.length });
  },
};
