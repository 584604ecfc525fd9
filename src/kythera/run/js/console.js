// The console of a script in service-worker format, whose output workerd keeps to itself: takes the
// script's traces and prints what it logged, and (unless somebody watches) its uncaught exceptions
// as the prelude of ES modules does.
const MESSAGE_CHARACTERS_MAX = 1000;
const STACK_CHARACTERS_MAX = 4000;
const LEVELS = { debug: console.debug, info: console.info, warn: console.warn, error: console.error };

function rayOf(event) {
  const headers = event?.request?.headers ?? {};
  return headers['cf-ray'] ?? '';
}

function report(exception, ray) {
  const { name, message, stack } = exception;
  console.error('%marker%' + JSON.stringify({
    ray,
    name,
    message: message.slice(0, MESSAGE_CHARACTERS_MAX),
    stack: `${name}: ${message}\n${stack ?? ''}`.trimEnd().slice(0, STACK_CHARACTERS_MAX),
  }));
}

export default {
  tail(traces, env) {
    for (const trace of traces) {
      for (const { level, message } of trace.logs) {
        (LEVELS[level] ?? console.log)(...(Array.isArray(message) ? message : [message]));
      }
      if (env.EXCEPTIONS && trace.outcome !== 'ok') {
        trace.exceptions.forEach((exception) => report(exception, rayOf(trace.event)));
      }
    }
  },
};
