// Tried: Intl.DateTimeFormat without a date, which formats now, in all its methods.
// Must be seen: all the same before and after burning CPU; a given date is formatted.
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
const options = { minute: '2-digit', second: '2-digit', fractionalSecondDigits: 3 };
const kept = new Intl.DateTimeFormat('en', options);
const { format } = kept;
const refused = (call) => { try { return String(call()); } catch (error) { return error.name; } };

function read() {
  return {
    format: new Intl.DateTimeFormat('en', options).format(),
    undefined: kept.format(undefined),
    detached: format(),
    parts: kept.formatToParts(),
    mapped: [undefined].map(kept.format),
    called: Intl.DateTimeFormat('en', options).format(),
    range: refused(() => kept.formatRange()),
    temporal: typeof Temporal === 'undefined' ? 0 : String(Temporal.Now.instant()),
  };
}

export default {
  fetch() {
    const itself = [
      kept.format(0) === '00:00.000',
      kept.format(new Date(1500)) === '00:01.500',
      kept.format === kept.format && kept.format.length === 1,
      kept.formatToParts(2).at(-1).value === '002',
    ];
    const before = read();
    burn();
    return Response.json({ before, after: read(), itself });
  },
};
