// WebSockets inside a worker: messages of both kinds, closing, what is refused.
export default {
  async fetch() {
    const [left, right] = Object.values(new WebSocketPair());
    left.accept();
    right.accept();
    const heard = [];
    const closed = new Promise((resolve) => right.addEventListener('close', ({ code, reason, wasClean }) => resolve([code, reason, wasClean])));
    right.addEventListener('message', ({ data }) => heard.push(typeof data === 'string' ? data : new Uint8Array(data).length));
    left.send('text');
    left.send(new Uint8Array([1, 2, 3]));
    left.close(4001, 'enough');
    const tried = (what) => {
      try {
        what();
        return 'nothing happened';
      } catch (error) {
        return `${error.name}: ${error.message}`;
      }
    };
    return Response.json({
      closed: await closed, heard, state: left.readyState, late: tried(() => left.send('late')),
      code: tried(() => right.close(1)), twice: tried(() => right.accept()),
    });
  },
};
