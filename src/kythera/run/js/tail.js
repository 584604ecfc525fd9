// Takes the traces of an observed cell's worker and posts them to the unix socket of whoever
// listens. Nobody there, or somebody slow, costs the worker nothing: traces are then lost.
const POST_MS_MAX = 5000;

export default {
  async tail(events, env) {
    const { account, worker, version } = env.ABOUT;
    const named = events.map((event) => ({
      ...JSON.parse(JSON.stringify(event)),
      scriptName: worker,
      scriptVersion: { id: version },
    }));
    try {
      const response = await env.SINK.fetch(`http://tail/${account}/${worker}/${version}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(named),
        signal: AbortSignal.timeout(POST_MS_MAX),
      });
      await response.body?.cancel();
    } catch {
      // Nobody listens any more.
    }
  },
};
