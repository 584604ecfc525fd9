// Workflows in their worker's object cell. Instances are run by workerd's own engine
// (`bundled-workflows.js`); here is what it leaves to others: a directory of a workflow's instances,
// limits, who starts nothing any more because the cell is being replaced, and what the API asks.
// An instance is an object of its workflow's namespace, by its id; the directory is one more of them,
// under a name that no instance can have, so that all of a workflow's data are in one place.
import { DurableObject, RpcTarget, WorkerEntrypoint, env as ours } from 'cloudflare:workers';
import { Engine, WorkflowBinding } from './bundled-workflows.js';

const DIRECTORY = '/directory';
const ENDED = ['complete', 'errored', 'terminated'];
const RESTING = [...ENDED, 'waiting', 'paused'];
// The engine looks after what its process was doing when it died at the next alarm, which it sets ten
// minutes ahead while code runs. An alarm more often costs little, and work goes on at once.
const WATCH_MS = 5000;
// A row whose instance was never made: whoever made it has died between the two.
const UNBORN_MS = 60_000;
const PAGE_MAX = 100;
const LEAVING_MS = 60_000;
const SPAN = { day: 86_400_000, hour: 3_600_000, minute: 60_000, second: 1000 };

const counts = { calls: 0, failed: 0, created: 0, attempts: 0, attempts_failed: 0, ended: 0 };
let leaving = false;
let inside = 0;

const directoryOf = (workflow) => ours[`workflow:${workflow}`].getByName(DIRECTORY);

function failure(name, message) {
  return Object.assign(new Error(message), { name });
}

// -- limits --------------------------------------------------------------------------------------

// About what storing it takes; what is no plain value (a stream, a stub) counts nothing.
function sizeOf(value, most, seen = new Set()) {
  if (typeof value === 'string') {
    return value.length > most ? value.length : new TextEncoder().encode(value).byteLength;
  }
  if (value === null || typeof value !== 'object') {
    return 8;
  }
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) {
    return value.byteLength;
  }
  if (seen.has(value)) {
    return 8;
  }
  seen.add(value);
  const parts = value instanceof Map ? [...value].flat() :
    value instanceof Set ? [...value] :
      Array.isArray(value) ? value : Object.entries(value).flat();
  let size = 8;
  for (const part of parts) {
    size += sizeOf(part, most, seen);
    if (size > most) {
      break;
    }
  }
  return size;
}

function checkPayload(value, what) {
  const most = ours.LIMITS.workflow_payload_bytes_max;
  if (sizeOf(value, most) > most) {
    throw failure('WorkflowError', `(payload.too_large) ${what} is larger than ${most} bytes.`);
  }
}

function checkRetention(retention) {
  const most = ours.LIMITS.workflow_retention_s_max * 1000;
  for (const asked of [retention?.successRetention, retention?.errorRetention]) {
    const [, count, unit] = /^\s*([\d.]+)\s*([a-z]+?)s?\s*$/.exec(String(asked)) ?? [];
    const days = { week: 7, month: 30, year: 365 }[unit];
    const asked_ms = typeof asked === 'number' ? asked : count * (SPAN[unit] ?? days * SPAN.day);
    if (asked_ms > most) {
      throw failure('WorkflowError', `(retention.too_long) An instance is kept for ${most / SPAN.day} days at most.`);
    }
  }
}

// -- an instance ---------------------------------------------------------------------------------

// The steps that `run()` takes, on their way to the engine's. A cell that is being replaced begins none;
// what it has begun it may end.
class Steps extends RpcTarget {
  #step;

  constructor(step) {
    super();
    this.#step = step;
  }

  async do(name, ...given) {
    while (leaving) {
      await scheduler.wait(LEAVING_MS);  // the next process runs it
    }
    const at = given.findIndex((each) => typeof each === 'function');
    if (at >= 0) {
      given[at] = attempted(name, given[at]);
    }
    return this.#step.do(name, ...given);
  }

  sleep(name, duration) {
    return this.#step.sleep(name, duration);
  }

  sleepUntil(name, timestamp) {
    return this.#step.sleepUntil(name, timestamp);
  }

  waitForEvent(name, options) {
    return this.#step.waitForEvent(name, options);
  }
}

function attempted(name, callback) {
  return async (context) => {
    inside += 1;
    counts.attempts += 1;
    try {
      const value = await callback(context);
      const most = ours.LIMITS.workflow_payload_bytes_max;
      if (sizeOf(value, most) > most) {
        const step = `${name}-${context.step.count}`;
        throw failure('WorkflowInternalError', `Step ${step} output is too large. Maximum allowed size is ${most} bytes.`);
      }
      return value;
    } catch (error) {
      counts.attempts_failed += 1;
      throw error;
    } finally {
      inside -= 1;
    }
  };
}

// The context of the engine's object, as the engine sees it.
function seenBy(ctx) {
  const { storage, id, props } = ctx;
  const { kv } = storage;
  const workflow = props.workflowName;
  let [told, wanted, telling] = [undefined, undefined, false];

  // Of several changes at once the directory needs the last one.
  async function tell() {
    telling = true;
    try {
      while (wanted !== told) {
        const status = wanted;
        await directoryOf(workflow).note(id.name, status, Date.now());
        told = status;
      }
    } catch {
      // Whoever lists instances asks those that seem to live.
    } finally {
      telling = false;
    }
  }

  function note(status) {
    counts.ended += Number(ENDED.includes(status) && !ENDED.includes(wanted));
    wanted = status;
    if (!telling) {
      ctx.waitUntil(tell());
    }
  }

  const seenKv = {
    get: (key) => kv.get(key),
    list: (options) => kv.list(options),
    delete: (key) => kv.delete(key),
    put(key, value) {
      const wait_ms = value?.deadline - Date.now();
      if (wait_ms > ours.LIMITS.workflow_sleep_s_max * 1000) {
        throw failure('WorkflowFatalError', `A step waits for ${ours.LIMITS.workflow_sleep_s_max / 86_400} days at most.`);
      }
      kv.put(key, value);
      if (key === 'meta' && value.status !== wanted) {
        note(value.status);
      }
    },
  };

  const seenStorage = {
    kv: seenKv,
    get sql() {
      return storage.sql;
    },
    setAlarm(at) {
      const status = kv.get('meta')?.status;
      const busy = status !== undefined && !RESTING.includes(status);
      return storage.setAlarm(busy ? Math.min(at, Date.now() + WATCH_MS) : at);
    },
    deleteAlarm: () => storage.deleteAlarm(),
    deleteAll() {
      const done = storage.deleteAll();
      note(null);
      return done;
    },
    sync: () => storage.sync(),
  };

  const workflowClass = props.workflowClass && {
    run: (event, step) => props.workflowClass.run(event, new Steps(step)),
  };
  return {
    id,
    storage: seenStorage,
    props: { ...props, workflowName: ours.NAMES[workflow], workflowClass },
    waitUntil: (promise) => ctx.waitUntil(promise),
    abort: (reason) => ctx.abort(reason),
  };
}

// The engine reads its context while it is made, so this has to come before it.
Object.setPrototypeOf(Engine, class extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    Object.defineProperty(this, 'ctx', { value: seenBy(ctx) });
  }
});

function iso(time) {
  return time === undefined || time === null ? null : new Date(time).toISOString();
}

// What the engine has logged of an instance's steps, one entry for each step.
function stepsOf(events) {
  const steps = new Map();
  const kinds = { step: 'step', sleep: 'sleep', wait: 'waitForEvent' };
  for (const { type, stepName, timestamp, error, output, config, result } of events) {
    const [kind, what] = type.split('_');
    const step = steps.get(stepName);
    const success = what === 'completed';
    if (what === 'started' && kind in kinds) {
      const attempts = kind === 'step' ? { attempts: [], config, output: null, success: null } : {};
      steps.set(stepName, { name: stepName, type: kinds[kind], start: iso(timestamp), end: null, ...attempts });
    } else if (step === undefined || (kind !== 'attempt' && !(kind in kinds))) {
      continue;
    } else if (kind === 'attempt' && what === 'started') {
      step.attempts.push({ start: iso(timestamp), end: null, success: null, error: null });
    } else if (kind === 'attempt') {
      Object.assign(step.attempts.at(-1) ?? {}, { end: iso(timestamp), success, error: error ?? null });
    } else {
      Object.assign(step, { end: iso(timestamp), success });
      if (kind === 'step') {
        step.output = output ?? null;
      } else {
        step.finished = success;
        step.error = success ? null : { name: 'WorkflowTimeoutError', message: 'No event came in time.' };
        step.output = result;
      }
    }
  }
  return [...steps.values()];
}

export class Instance extends Engine {
  glance() {
    const meta = this.ctx.storage.kv.get('meta');
    return meta === undefined ? null : meta.status;
  }

  describe() {
    const { kv } = this.ctx.storage;
    const meta = kv.get('meta');
    if (meta === undefined) {
      return null;
    }
    const events = [...kv.list({ prefix: 'l:' })].map(([, event]) => {
      if (event.type !== 'wait_completed') {
        return event;
      }
      const at = event.stepName.lastIndexOf('-');
      const [name, count] = [event.stepName.slice(0, at), event.stepName.slice(at + 1)];
      return { ...event, result: kv.get(`s:waitForEvent:${count}:${name}`)?.value.payload };
    });
    const started = events.findLast(({ type }) => type === 'workflow_started');
    const ended = events.findLast(({ type }) => /^workflow_(completed|errored|terminated)$/.test(type));
    const steps = stepsOf(events);
    return {
      status: meta.status,
      params: meta.params,
      queued: iso(meta.created),
      start: iso(started?.timestamp),
      end: iso(ended?.timestamp),
      success: ENDED.includes(meta.status) ? meta.status === 'complete' : null,
      output: meta.output ?? null,
      error: meta.error ?? null,
      step_count: steps.length,
      steps,
    };
  }

  // -- the directory: an object of this class, under a name of its own --

  get #rows() {
    const { sql } = this.ctx.storage;
    sql.exec(
      'CREATE TABLE IF NOT EXISTS instances (id TEXT PRIMARY KEY, created INTEGER, modified INTEGER,'
      + ' started INTEGER, ended INTEGER, status TEXT, version TEXT, source TEXT) WITHOUT ROWID',
    );
    sql.exec('CREATE INDEX IF NOT EXISTS by_time ON instances (created, id)');
    sql.exec('CREATE INDEX IF NOT EXISTS by_status ON instances (status, created, id)');
    return sql;
  }

  add(id, now, version, source) {
    this.#rows.exec(
      'INSERT INTO instances (id, created, modified, version, source) VALUES (?, ?, ?, ?, ?)'
      + ' ON CONFLICT DO UPDATE SET created = excluded.created, version = excluded.version,'
      + ' source = excluded.source WHERE status IS NULL', id, now, now, version, source);
  }

  note(id, status, now) {
    if (status === null) {
      this.#rows.exec('DELETE FROM instances WHERE id = ?', id);
      return;
    }
    const ended = ENDED.includes(status) ? now : null;
    this.#rows.exec(
      'UPDATE instances SET status = ?, modified = ?, ended = ?,'
      + ' started = CASE WHEN ? THEN started ELSE coalesce(started, ?) END WHERE id = ?',
      status, now, ended, Number(status === 'queued'), now, id);
  }

  row(id) {
    return this.#rows.exec('SELECT * FROM instances WHERE id = ?', id).toArray()[0] ?? null;
  }

  page({ status, since = 0, until = Number.MAX_SAFE_INTEGER, after, size, offset = 0, oldest = false }) {
    const compared = oldest ? '>' : '<';
    const order = oldest ? 'ASC' : 'DESC';
    const [time, id] = after ?? [oldest ? -1 : Number.MAX_SAFE_INTEGER, ''];
    return this.#rows.exec(
      `SELECT * FROM instances WHERE ${status === undefined ? '? IS NULL' : 'status = ?'}`
      + ` AND created BETWEEN ? AND ? AND (created, id) ${compared} (?, ?)`
      + ` ORDER BY created ${order}, id ${order} LIMIT ? OFFSET ?`,
      status ?? null, since, until, time, id, size, offset).toArray();
  }

  tally() {
    const rows = this.#rows.exec('SELECT status, count(*) AS n FROM instances WHERE status IS NOT NULL GROUP BY status');
    return Object.fromEntries(rows.toArray().map(({ status, n }) => [status, n]));
  }
}

// -- what workers and the API call ---------------------------------------------------------------

export class Binding extends WorkflowBinding {
  async create(options = {}) {
    const { workflow, source = 'binding' } = this.ctx.props;
    const given = 'id' in options ? options : { ...options, id: crypto.randomUUID() };
    checkPayload(given.params, 'The event of an instance');
    checkRetention(given.retention);
    const valid = typeof given.id === 'string' && given.id.length <= PAGE_MAX;
    if (valid) {
      await directoryOf(workflow).add(given.id, Date.now(), ours.VERSION, source);
    }
    const made = await super.create(given);
    counts.created += 1;
    return made;
  }

  // The directory is told here, for the instance may end before it can tell.
  async deleteInstance(id) {
    await super.deleteInstance(id);
    await directoryOf(this.ctx.props.workflow).note(id, null, Date.now());
  }

  async deleteBatch(options) {
    const told = await super.deleteBatch(options);
    const directory = directoryOf(this.ctx.props.workflow);
    await Promise.all(told.deleted.map(({ id }) => directory.note(id, null, Date.now())));
    return told;
  }

  async sendEvent(id, event) {
    checkPayload(event?.payload, 'An event');
    return super.sendEvent(id, event);
  }
}

const CALLS = [
  'getInstance', 'create', 'createBatch', 'deleteInstance', 'deleteBatch', 'pause', 'resume',
  'terminate', 'restart', 'status', 'sendEvent', 'subscribe',
];

// A page of the directory, with the state that each instance is in now.
async function listed(workflow, asked) {
  const directory = directoryOf(workflow);
  const rows = await directory.page(asked);
  const found = await Promise.all(rows.map(async (row) => {
    const status = await ours[`workflow:${workflow}`].getByName(row.id).glance();
    const comes = status === null && row.status === null && row.created > Date.now() - UNBORN_MS;
    if (status !== row.status && !comes) {
      await directory.note(row.id, status, Date.now());
      return directory.row(row.id);
    }
    return status === null ? null : row;
  }));
  return found.filter((row) => row !== null);
}

async function endAll(workflow, call, status) {
  const directory = directoryOf(workflow);
  let [after, ended] = [undefined, 0];
  for (;;) {
    const rows = await directory.page({ size: PAGE_MAX, after, oldest: true });
    for (const row of rows) {
      if (!ENDED.includes(row.status) && (status === undefined || row.status === status)) {
        await call('terminate', row.id).then(() => { ended += 1; }, () => {});
      }
    }
    if (rows.length < PAGE_MAX) {
      return { ended };
    }
    after = [rows.at(-1).created, rows.at(-1).id];
  }
}

const ASKED = {
  list: (workflow, call, asked) => listed(workflow, asked),
  tally: (workflow) => directoryOf(workflow).tally(),
  terminateAll: (workflow, call, { status }) => endAll(workflow, call, status),

  async describe(workflow, call, { id }) {
    await call('getInstance', id);
    const [told, row] = await Promise.all([
      ours[`workflow:${workflow}`].getByName(id).describe(), directoryOf(workflow).row(id)]);
    return { ...told, version: row?.version ?? '', source: row?.source ?? 'unknown' };
  },
};

export default class extends WorkerEntrypoint {
  // What another cell of this account calls: `workflow` is the name that its binding has.
  async call(name, method, given, source = 'binding') {
    counts.calls += 1;
    try {
      const workflow = Object.keys(ours.NAMES).find((id) => ours.NAMES[id] === name);
      if (workflow === undefined) {
        throw failure('WorkflowError', `(workflow.not_found) This Worker's deployed version has no Workflow ${JSON.stringify(name)}.`);
      }
      if (!CALLS.includes(method)) {
        throw new TypeError(`A Workflow has no method ${JSON.stringify(method)} here.`);
      }
      return await this.ctx.exports.Binding({ props: { workflow, source } })[method](...given);
    } catch (error) {
      counts.failed += 1;
      throw error;
    }
  }

  // What the API asks, in JSON.
  async ask(workflow, what, asked) {
    const call = (method, ...given) => this.call(ours.NAMES[workflow], method, given, 'api');
    const answer = Object.hasOwn(ASKED, what) ?
      await ASKED[what](workflow, call, asked) : await call(what, ...asked.given);
    const told = (name, value) => (typeof value === 'bigint' ? String(value) : value);
    return JSON.stringify(answer ?? null, told);
  }

  watch(isLeaving) {
    leaving ||= isLeaving;
    return { inside, counts };
  }
}
