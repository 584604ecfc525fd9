// Stands between a worker's Hyperdrive binding and the machine's way to the database, apart from the
// worker's code. Who asks is added by workerd itself, to requests alone: a ticket is asked first.
export default {
  async connect(socket, env) {
    const answer = await env.WAY.fetch("http://hyperdrive/", { method: "POST" });
    const said = (await answer.text()).trimEnd();
    if (!answer.ok) {
      console.warn(said);
      throw new Error(said);
    }
    const through = env.WAY.connect(`${said}:1`, { allowHalfOpen: true });
    await Promise.allSettled([
      socket.readable.pipeTo(through.writable),
      through.readable.pipeTo(socket.writable),
    ]);
  },
};
