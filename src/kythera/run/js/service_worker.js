// Stands before a script in service-worker format, on the script's own first line, so that no line
// of it moves; `%columns%` becomes the length of this text, to be taken off columns in that line.
// Says of an uncaught exception which request (ray id) it ended.
{
  const print = console.error.bind(console);
  const listen = globalThis.addEventListener;
  const respondWith = FetchEvent.prototype.respondWith;
  const report = (error, event) => {
    try {
      const isError = error instanceof Error;
      const own = (all, script, column) => `${script}:1:${column - %columns%}`;
      const stack = isError ? String(error.stack).split('\n')
        .map((line) => line.replace(/([^\s(]+):1:(\d+)/, own))
        .filter((line) => !/:1:-\d+/.test(line)) : [];
      print('%marker%' + JSON.stringify({
        ray: event.request.headers.get('cf-ray') ?? '',
        name: isError ? String(error.name) : typeof error,
        message: String(isError ? error.message : error).slice(0, 1000),
        stack: stack.join('\n').slice(0, 4000),
      }));
    } catch {}
  };
  FetchEvent.prototype.respondWith = function (response) {
    const watched = async () => {
      try {
        return await response;
      } catch (error) {
        report(error, this);
        throw error;
      }
    };
    return respondWith.call(this, watched());
  };
  globalThis.addEventListener = function (type, listener, ...options) {
    if (type !== 'fetch' || typeof listener !== 'function') {
      return listen.call(globalThis, type, listener, ...options);
    }
    const watched = (event) => {
      try {
        return listener.call(globalThis, event);
      } catch (error) {
        report(error, event);
        throw error;
      }
    };
    return listen.call(globalThis, type, watched, ...options);
  };
}
