// Server-sent events, and what is sent before the end is known.
export default {
  fetch() {
    let number = 0;
    const stream = new ReadableStream({
      async pull(controller) {
        number += 1;
        await scheduler.wait(5);
        controller.enqueue(new TextEncoder().encode(`id: ${number}\ndata: tick\n\n`));
        if (number === 3) {
          controller.close();
        }
      },
    });
    return new Response(stream, {
      headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-store' },
    });
  },
};
