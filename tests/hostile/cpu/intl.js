// tries: dates and numbers in the words of many languages
// contained: exceededCpu
// settings: {"limits": {"cpu_ms": 100}}
export default {
  async fetch(request) {
    if (request.method === 'GET') return new Response('calm');
    for (let i = 0; ; i += 1) {
      const where = ['ar', 'hi', 'th', 'zh', 'fa'][i % 5];
      new Intl.DateTimeFormat(where, { dateStyle: 'full' }).format(i * 1e9);
      new Intl.NumberFormat(where, { style: 'currency', currency: 'EUR' }).format(i);
      'äöü'.localeCompare('aou', where);
    }
  },
};
