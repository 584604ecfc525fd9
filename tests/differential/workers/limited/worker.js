// The rate limiter: a few are let through, then none.
export default {
  async fetch(request, { LIMITER }) {
    const found = [];
    for (let number = 0; number < 5; number += 1) {
      found.push((await LIMITER.limit({ key: 'one' })).success);
    }
    return Response.json({ found, other: (await LIMITER.limit({ key: 'two' })).success });
  },
};
