// tries: labels of the console that are never let go
// contained: any
// settings: {"limits": {"cpu_ms": 1000}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; i < 1e5; i += 1) {
      console.count(`c${i}`);
      console.time(`t${i}`);
      console.group(`g${i}`);
    }
    return new Response('contained');
  },
};
