// A darkroom for PNGs: pictures are unpacked by the runtime, developed in WebAssembly (C), and
// packed again.

import { Darkroom, EFFECTS } from "./darkroom.js";
import { BadPicture, decode, encode } from "./png.js";
import page from "./page.html";

const UPLOAD_BYTES_MAX = 16 * 1024 * 1024;
const SAMPLE_SIZE = 320;

export default {
  async fetch(request) {
    const { pathname, searchParams } = new URL(request.url);
    const effect = searchParams.get("effect");
    try {
      switch (`${request.method} ${pathname}`) {
        case "GET /":
          return new Response(page, { headers: { "content-type": "text/html; charset=utf-8" } });
        case "GET /sample.png":
          return picture(await sample(effect));
        case "POST /develop":
          return picture(await develop(await upload(request), effect ?? "gray"));
        default:
          return new Response("POST a PNG to /develop?effect=gray, edges or dither.\n", {
            status: 404,
          });
      }
    } catch (error) {
      if (error instanceof BadPicture) return new Response(`${error.message}\n`, { status: 400 });
      throw error;
    }
  },
};

async function upload(request) {
  const length = Number(request.headers.get("content-length") ?? NaN);
  if (!(length <= UPLOAD_BYTES_MAX)) {
    throw new BadPicture(`send a picture of ${UPLOAD_BYTES_MAX} bytes at most, with its length`);
  }
  return new Uint8Array(await request.arrayBuffer());
}

async function develop(file, effect) {
  if (!EFFECTS.includes(effect)) throw new BadPicture(`effects are ${EFFECTS.join(", ")}`);
  const darkroom = new Darkroom();
  const print = darkroom.develop(await decode(file), effect);
  if (!print) throw new BadPicture("the PNG's rows are damaged");
  return encode(print, darkroom.crc32);
}

async function sample(effect) {
  const darkroom = new Darkroom();
  const file = await encode(darkroom.paint(SAMPLE_SIZE), darkroom.crc32);
  return effect ? develop(new Uint8Array(await file.arrayBuffer()), effect) : file;
}

function picture(file) {
  return new Response(file, { headers: { "content-type": "image/png" } });
}
