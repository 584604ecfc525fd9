// Bodies as forms, JSON, bytes; and what cannot be read as such.
export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    try {
      if (pathname === '/form') {
        const form = await request.formData();
        const rows = [];
        for (const [name, value] of form) {
          rows.push([name, typeof value === 'string' ? value :
            { name: value.name, type: value.type, text: await value.text() }]);
        }
        return Response.json(rows);
      }
      if (pathname === '/json') {
        return Response.json({ got: await request.json() });
      }
      const bytes = new Uint8Array(await request.arrayBuffer());
      return Response.json({ length: bytes.length, sum: bytes.reduce((a, b) => a + b, 0) });
    } catch (error) {
      return Response.json({ name: error.name, message: error.message }, { status: 400 });
    }
  },
};
