// PNG around the pixels: chunks, and the deflate streams that the runtime brings along.

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const CHANNELS = { 0: 1, 2: 3, 4: 2, 6: 4 }; // by PNG's colour type
const PIXELS_MAX = 4_000_000;

export class BadPicture extends Error {}

/** Take a PNG apart: its size, its channels, and its rows, still filtered. */
export async function decode(file) {
  if (SIGNATURE.some((byte, i) => file[i] !== byte)) throw new BadPicture("this is not a PNG");

  let head;
  const data = [];
  for (const { type, body } of chunks(file)) {
    if (type === "IHDR") head = readHead(body);
    if (type === "IDAT") data.push(body);
  }
  if (!head || !data.length) throw new BadPicture("the PNG is not whole");

  const expected = head.height * (head.width * head.channels + 1);
  const rows = new Uint8Array(expected);
  let length = 0;
  try {
    for await (const piece of through(new DecompressionStream("deflate"), data)) {
      if (length + piece.length > expected) throw new BadPicture("the PNG has too many rows");
      rows.set(piece, length);
      length += piece.length;
    }
  } catch (error) {
    throw error instanceof BadPicture ? error : new BadPicture("the PNG's data is damaged");
  }
  if (length !== expected) throw new BadPicture("the PNG has too few rows");
  return { ...head, rows };
}

/** Put rows together into a PNG with 8 bits a channel; `crc32` is the darkroom's. */
export async function encode({ width, height, colorType, rows }, crc32) {
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8);
  head.setUint8(9, colorType);

  const packed = [];
  for await (const piece of through(new CompressionStream("deflate"), [rows])) packed.push(piece);
  return new Blob([
    new Uint8Array(SIGNATURE),
    chunk("IHDR", new Uint8Array(head.buffer), crc32),
    ...packed.map((piece) => chunk("IDAT", piece, crc32)),
    chunk("IEND", new Uint8Array(), crc32),
  ]);
}

function* chunks(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = SIGNATURE.length; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    if (at + 12 + length > file.length) throw new BadPicture("the PNG is cut off");
    const type = String.fromCharCode(...file.subarray(at + 4, at + 8));
    yield { type, body: file.subarray(at + 8, at + 8 + length) };
    at += 12 + length;
  }
}

function readHead(body) {
  if (body.length !== 13) throw new BadPicture("the PNG's header is damaged");
  const view = new DataView(body.buffer, body.byteOffset);
  const [width, height] = [view.getUint32(0), view.getUint32(4)];
  const [depth, colorType, , , interlaced] = body.subarray(8);
  const channels = CHANNELS[colorType];
  if (depth !== 8 || !channels || interlaced) {
    throw new BadPicture("only plain PNGs are read: 8 bits, no palette, not interlaced");
  }
  if (!width || !height) throw new BadPicture("the picture is empty");
  if (width * height > PIXELS_MAX) {
    throw new BadPicture(`${width} × ${height} is too large; ${PIXELS_MAX} pixels are the most`);
  }
  return { width, height, channels };
}

function chunk(type, body, crc32) {
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(body, 8);
  view.setUint32(8 + body.length, crc32(bytes.subarray(4, 8 + body.length)));
  return bytes;
}

function through(transform, pieces) {
  return new Blob(pieces).stream().pipeThrough(transform);
}
