// R2: uploads in parts, resumed, completed, given up.
async function tried(what) {
  try {
    const found = await what();
    return found === undefined ? 'nothing' : found;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}

export default {
  async fetch(request, { R2 }) {
    const part = new Uint8Array(5 * 1024 * 1024).fill(97);
    const upload = await R2.createMultipartUpload('big', { customMetadata: { made: 'of parts' } });
    const again = R2.resumeMultipartUpload('big', upload.uploadId);
    const one = await upload.uploadPart(1, part);
    const two = await again.uploadPart(2, 'the end');
    const done = await upload.complete([one, two]);
    const tail = await R2.get('big', { range: { suffix: 9 } });
    const given = await R2.createMultipartUpload('given-up');
    await given.uploadPart(1, 'x');
    await given.abort();
    return Response.json({
      size: done.size, custom: done.customMetadata, tail: await tail.text(), parts: [one.partNumber, two.partNumber],
      gone: await R2.head('given-up'),
      unknown: await tried(() => R2.resumeMultipartUpload('big', 'nobody').uploadPart(1, 'x')),
    });
  },
};
