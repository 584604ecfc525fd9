"""The darkroom example's arithmetic, once more in Python, and enough of PNG to talk to it."""

import struct
import zlib

Rows = list[list[int]]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
BAYER = (0, 8, 2, 10, 12, 4, 14, 6, 3, 11, 1, 9, 15, 7, 13, 5)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda near: abs(guess - near))


def _filtered(kind: int, row: list[int], above: list[int], channels: int) -> bytes:
    """Return one row as PNG's filter `kind` (0 to 4) writes it."""
    guesses = []
    for x in range(len(row)):
        left = row[x - channels] if x >= channels else 0
        corner = above[x - channels] if x >= channels else 0
        up = above[x]
        guesses.append((0, left, up, (left + up) // 2, _paeth(left, up, corner))[kind])
    return bytes(
        [kind, *((value - guess) % 256 for value, guess in zip(row, guesses, strict=True))]
    )


def write_png(rows: Rows, channels: int) -> bytes:
    """Return a PNG of 8 bits a channel that uses each of the five filters in turn."""
    width = len(rows[0]) // channels
    lines = [
        _filtered(y % 5, row, rows[y - 1] if y else [0] * len(row), channels)
        for y, row in enumerate(rows)
    ]
    head = struct.pack(">IIBBBBB", width, len(rows), 8, COLOUR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(b"".join(lines))
    return SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def read_png(png: bytes) -> Rows:
    """Return the rows of a gray, unfiltered PNG; fail on a wrong checksum."""
    assert png.startswith(SIGNATURE)
    at, data, width = len(SIGNATURE), b"", 0
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert png[at : at + 12 + length] == _chunk(kind, body)
        if kind == b"IHDR":
            width = struct.unpack_from(">I", body)[0]
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    plain = zlib.decompress(data)
    lines = [plain[y : y + width + 1] for y in range(0, len(plain), width + 1)]
    assert all(line[0] == 0 for line in lines)
    return [list(line[1:]) for line in lines]


def _gray(row: list[int], channels: int) -> list[int]:
    if channels == 1:
        return row
    pixels = zip(row[::channels], row[1::channels], row[2::channels], strict=True)
    return [(77 * red + 150 * green + 29 * blue) >> 8 for red, green, blue in pixels]


def _steepness(gray: Rows, x: int, y: int) -> int:
    def at(dx: int, dy: int) -> int:
        row = gray[min(max(y + dy, 0), len(gray) - 1)]
        return row[min(max(x + dx, 0), len(row) - 1)]

    across = sum(w * (at(1, dy) - at(-1, dy)) for dy, w in ((-1, 1), (0, 2), (1, 1)))
    down = sum(w * (at(dx, 1) - at(dx, -1)) for dx, w in ((-1, 1), (0, 2), (1, 1)))
    return min(abs(across) + abs(down), 255)


def _dithered(value: int, x: int, y: int) -> int:
    return 255 if value > BAYER[(y & 3) * 4 + (x & 3)] * 16 + 8 else 0


def develop(rows: Rows, channels: int, effect: str) -> Rows:
    """Return the gray picture that the darkroom must make of `rows`."""
    gray = [_gray(row, channels) for row in rows]
    if effect == "gray":
        return gray
    size = [(y, range(len(row))) for y, row in enumerate(gray)]
    if effect == "edges":
        return [[_steepness(gray, x, y) for x in columns] for y, columns in size]
    return [[_dithered(gray[y][x], x, y) for x in columns] for y, columns in size]
