// The door to darkroom.wasm: copies pictures in and out of its memory.

import compiled from "./darkroom.wasm";

export const EFFECTS = ["gray", "edges", "dither"];

const PAGE_BYTES = 65_536;

/** A fresh darkroom: its memory belongs to one picture, and goes with it. */
export class Darkroom {
  #wasm = new WebAssembly.Instance(compiled).exports;

  /** PNG's checksum of some bytes. */
  crc32 = (bytes) => {
    const [at] = this.#room(bytes.length);
    this.#bytes(at, bytes.length).set(bytes);
    return this.#wasm.crc32(at, bytes.length) >>> 0;
  };

  /** Turn decoded rows of any kind into rows of gray; null if they are damaged. */
  develop({ width, height, channels, rows }, effect) {
    const [source, gray, out] = this.#room(rows.length, width * height, height * (width + 1));
    this.#bytes(source, rows.length).set(rows);
    if (this.#wasm.unfilter(source, width, height, channels)) return null;

    this.#wasm.develop(source, width, height, channels, EFFECTS.indexOf(effect), gray, out);
    return { width, height, colorType: 0, rows: this.#bytes(out, height * (width + 1)).slice() };
  }

  /** A picture to try things on. */
  paint(size) {
    const length = size * (size * 3 + 1);
    const [out] = this.#room(length);
    this.#wasm.paint(out, size);
    return { width: size, height: size, colorType: 2, rows: this.#bytes(out, length).slice() };
  }

  /** Lay regions out one after the other; the memory grows to hold them. */
  #room(...lengths) {
    const starts = [];
    let end = this.#wasm.heap();
    for (const length of lengths) {
      starts.push(end);
      end += length;
    }
    const missing = end - this.#wasm.memory.buffer.byteLength;
    if (missing > 0) this.#wasm.memory.grow(Math.ceil(missing / PAGE_BYTES));
    return starts;
  }

  #bytes(at, length) {
    return new Uint8Array(this.#wasm.memory.buffer, at, length);
  }
}
