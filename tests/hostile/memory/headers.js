// tries: headers that are never sent
// contained: boundedMemory
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    const headers = new Headers();
    for (let i = 0; i < 1e6; i += 1) headers.append(`x-${i}`, 'h'.repeat(1000));
    return new Response('reached: a gigabyte of headers');
  },
};
