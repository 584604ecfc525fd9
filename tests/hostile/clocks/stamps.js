// Tried: times that workerd itself stamps on objects: files, files of forms, forms that are parsed,
// events; and the class File that node:buffer has kept for itself.
// Must be seen: all the same before and after burning CPU; a file with a given time keeps it.
import { File as KeptFile } from 'node:buffer';
const burn = () => { let sum = 0; for (let i = 0; i < 4e7; i += 1) sum += i; return sum; };
class MyFile extends File {}

// Made now, looked at when all is done.
function made() {
  const form = new FormData();
  form.append('blob', new Blob(['x']));
  form.append('renamed', new File(['x'], 'x', { lastModified: 1 }), 'y');
  form.set('set', new Blob(['x']), 'z');
  const stamped = [new File([], 'x'), new MyFile([], 'x'), new KeptFile([], 'x')];
  return [...stamped, ...form.values(), new Event('x'), new MessageEvent('x', { data: 1 })];
}

function timesOf(objects) {
  return objects.map(({ lastModified, timeStamp }) => lastModified ?? timeStamp);
}

export default {
  async fetch() {
    const given = Date.now() - 1000;
    const parsed = new Response(new URLSearchParams('a=1')).formData();
    const itself = [
      new File(['x'], 'x', { lastModified: given }).lastModified === given,
      new File(['x'], 'x', { lastModified: 3, type: 'a/b' }).type === 'a/b',
      new File(['x'], 'name').name === 'name' && new MyFile([], 'x') instanceof MyFile,
    ];
    const first = made();
    burn();
    const second = made();
    await parsed;
    return Response.json({ before: timesOf(first), after: timesOf(second), itself });
  },
};
