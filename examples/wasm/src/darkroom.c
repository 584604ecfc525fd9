// Picture work for the Worker beside it: WebAssembly without a runtime, a library or an allocator.
// All arithmetic is in integers, so the same picture gives the same bytes on every machine.
//
// Rebuild:  make          (Debian packages clang and lld)

typedef unsigned char byte;

#define EXPORT(name) __attribute__((export_name(name)))
#define GRAY 0
#define EDGES 1
#define DITHER 2

extern byte __heap_base;

// Where the caller may put things: everything from here on is free.
EXPORT("heap") byte *heap(void) { return &__heap_base; }

static int absolute(int n) { return n < 0 ? -n : n; }
static int clamp(int n) { return n < 0 ? 0 : n > 255 ? 255 : n; }

static byte paeth(int left, int up, int corner) {
  int guess = left + up - corner;
  int to_left = absolute(guess - left), to_up = absolute(guess - up);
  int to_corner = absolute(guess - corner);
  if (to_left <= to_up && to_left <= to_corner) return (byte)left;
  return (byte)(to_up <= to_corner ? up : corner);
}

// Undo PNG's filters in place. Each row is one filter byte and then width × channels bytes.
// Returns 0, or 1 when a row names a filter that does not exist.
EXPORT("unfilter") int unfilter(byte *rows, int width, int height, int channels) {
  int length = width * channels;
  for (int y = 0; y < height; y++) {
    byte *row = rows + y * (length + 1) + 1;
    byte *above = y ? row - length - 1 : 0;
    for (int x = 0; x < length; x++) {
      int left = x >= channels ? row[x - channels] : 0;
      int up = above ? above[x] : 0;
      int corner = above && x >= channels ? above[x - channels] : 0;
      switch (row[-1]) {
        case 0: break;
        case 1: row[x] += left; break;
        case 2: row[x] += up; break;
        case 3: row[x] += (left + up) / 2; break;
        case 4: row[x] += paeth(left, up, corner); break;
        default: return 1;
      }
    }
  }
  return 0;
}

// Brightness as ITU-R BT.601 has it, in 256ths.
static byte brightness(const byte *pixel, int channels) {
  if (channels < 3) return pixel[0];
  return (byte)((77 * pixel[0] + 150 * pixel[1] + 29 * pixel[2]) >> 8);
}

static int at(const byte *gray, int width, int height, int x, int y) {
  x = x < 0 ? 0 : x >= width ? width - 1 : x;
  y = y < 0 ? 0 : y >= height ? height - 1 : y;
  return gray[y * width + x];
}

// Sobel's operator: how steeply the brightness changes.
static byte steepness(const byte *gray, int width, int height, int x, int y) {
#define AT(dx, dy) at(gray, width, height, x + (dx), y + (dy))
  int across = AT(1, -1) + 2 * AT(1, 0) + AT(1, 1) - AT(-1, -1) - 2 * AT(-1, 0) - AT(-1, 1);
  int down = AT(-1, 1) + 2 * AT(0, 1) + AT(1, 1) - AT(-1, -1) - 2 * AT(0, -1) - AT(1, -1);
  return (byte)clamp(absolute(across) + absolute(down));
}

// Ordered dithering with Bayer's 4 × 4 matrix: black and white only.
static byte dithered(byte gray, int x, int y) {
  static const byte bayer[16] = {0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5};
  return gray > bayer[(y & 3) * 4 + (x & 3)] * 16 + 8 ? 255 : 0;
}

// Develop unfiltered rows into gray rows (`out`, each with a filter byte of 0 before it).
// `gray` is scratch for width × height bytes.
EXPORT("develop")
void develop(const byte *rows, int width, int height, int channels, int effect, byte *gray,
             byte *out) {
  for (int y = 0; y < height; y++) {
    const byte *row = rows + y * (width * channels + 1) + 1;
    for (int x = 0; x < width; x++) gray[y * width + x] = brightness(row + x * channels, channels);
  }
  for (int y = 0; y < height; y++) {
    byte *row = out + y * (width + 1);
    *row++ = 0;
    for (int x = 0; x < width; x++) {
      byte value = gray[y * width + x];
      if (effect == EDGES) value = steepness(gray, width, height, x, y);
      if (effect == DITHER) value = dithered(value, x, y);
      row[x] = value;
    }
  }
}

// Paint a square picture to try things on: a lit ball over a checkered floor, in RGB rows.
EXPORT("paint") void paint(byte *rows, int size) {
  int middle = size / 2, radius = size * 3 / 8;
  for (int y = 0; y < size; y++) {
    byte *row = rows + y * (size * 3 + 1);
    *row++ = 0;
    for (int x = 0; x < size; x++, row += 3) {
      int dx = x - middle, dy = y - middle, lit = 2 * radius - absolute(dx + radius / 2) -
                                                   absolute(dy + radius / 2);
      int floor = ((x * 8 / size + y * 8 / size) & 1) ? 70 : 40;
      int ball = dx * dx + dy * dy < radius * radius;
      int light = ball ? clamp(30 + lit * 225 / (2 * radius)) : floor;
      row[0] = (byte)(ball ? light : light / 2);
      row[1] = (byte)(ball ? light * 3 / 4 : light * 2 / 3);
      row[2] = (byte)(ball ? light / 4 : light);
    }
  }
}

// PNG's checksum (CRC-32), bit by bit: chunks are few, tables are not worth their bytes.
EXPORT("crc32") unsigned crc32(const byte *data, int length) {
  unsigned crc = 0xffffffff;
  for (int i = 0; i < length; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc;
}
