"""Source maps: from a position in a bundle back to the line that somebody wrote.

Pure. Reads version 3 of the format, plain and indexed. A map that is damaged or points nowhere
maps nothing: the stack then stays as it was. (The decoders on PyPI are unmaintained; the format
is small.)
"""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from kythera.model.records import Version

SUFFIX = ".map"
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}


class Position(NamedTuple):
    """A place in a source file; line and column count from 1, as in stack traces."""

    source: str
    line: int
    column: int


class Segment(NamedTuple):
    """One entry of a map: from this generated column on, this original place (all from 0)."""

    generated: int
    source: int
    line: int
    column: int


class SourceMap:
    """One map, decoded when it is first asked."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    @classmethod
    def parse(cls, data: bytes) -> "SourceMap":
        """Read a map. Raises ValueError when it is not one."""
        text = data.decode(errors="replace").removeprefix(")]}'")
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != 3:
            raise ValueError("a source map is a JSON object with version 3")
        return cls(document)

    def original(self, line: int, column: int) -> Position | None:
        """Return where a generated position (both from 1) comes from, or None."""
        segments = self._lines.get(line - 1)
        if not segments:
            return None
        index = bisect_right(segments, column - 1, key=lambda segment: segment.generated)
        segment = segments[index - 1] if index else None
        if segment is None or segment.source < 0:
            return None
        return Position(self._sources[segment.source], segment.line + 1, segment.column + 1)

    @cached_property
    def _decoded(self) -> tuple[list[str], dict[int, list[Segment]]]:
        sources: list[str] = []
        lines: dict[int, list[Segment]] = {}
        try:
            for section in self._document.get("sections") or [{"map": self._document}]:
                offset = section.get("offset", {})
                start = int(offset.get("line", 0)), int(offset.get("column", 0))
                _read_section(section["map"], start, sources, lines)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return [], {}
        return sources, lines

    @property
    def _sources(self) -> list[str]:
        return self._decoded[0]

    @property
    def _lines(self) -> dict[int, list[Segment]]:
        return self._decoded[1]


def _read_section(
    document: Mapping[str, Any],
    start: tuple[int, int],
    sources: list[str],
    lines: dict[int, list[Segment]],
) -> None:
    first_source = len(sources)
    root = document.get("sourceRoot") or ""
    listed = [_readable(root, str(source)) for source in document["sources"]]
    source, line, column = 0, 0, 0
    for number, text in enumerate(document["mappings"].split(";")):
        generated = start[1] if number == 0 else 0
        segments = lines.setdefault(start[0] + number, [])
        for encoded in text.split(",") if text else ():
            fields = decode_vlq(encoded)
            generated += fields[0]
            if len(fields) == 1:
                segments.append(Segment(generated, -1, 0, 0))
                continue
            source, line, column = source + fields[1], line + fields[2], column + fields[3]
            if not 0 <= source < len(listed) or line < 0 or column < 0:
                raise ValueError("a segment points outside of its sources")
            segments.append(Segment(generated, first_source + source, line, column))
        segments.sort()
    sources += listed


def decode_vlq(text: str) -> list[int]:
    """Decode one segment's base-64 variable-length numbers. Raises ValueError for garbage."""
    numbers: list[int] = []
    value = shift = 0
    for digit in text:
        bits = _VALUES.get(digit)
        if bits is None or shift > 60:
            raise ValueError(f"not a base-64 variable-length number: {text!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            numbers.append(-(value >> 1) if value & 1 else value >> 1)
            value = shift = 0
    if shift or not numbers:
        raise ValueError(f"a number is cut short: {text!r}")
    return numbers


def _readable(root: str, source: str) -> str:
    """Bundlers name sources from where the bundle lay in a temporary folder: drop the way there."""
    path = f"{root.rstrip('/')}/{source}" if root else source
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return path if "://" in path else "/".join(parts)


def source_maps(version: Version, read_blob: Callable[[str], bytes]) -> dict[str, SourceMap]:
    """Return a version's readable maps by the name of the module that each describes."""
    found = {}
    for module in version.modules:
        if module.type == "source_map" and module.name.endswith(SUFFIX):
            try:
                mapped = SourceMap.parse(read_blob(module.digest))
            except (ValueError, RecursionError):
                continue
            found[module.name.removesuffix(SUFFIX)] = mapped
    return found


def map_stack(stack: str, maps: Mapping[str, SourceMap]) -> str:
    """Return a stack trace whose positions in mapped modules are those of the sources."""
    by_name = {name.removeprefix("./"): found for name, found in maps.items()}
    if not by_name:
        return stack
    names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    position = re.compile(rf"(?<![^\s(])(?:\./)?({names}):(\d{{1,9}}):(\d{{1,9}})")

    def replaced(found: re.Match[str]) -> str:
        where = by_name[found[1]].original(int(found[2]), int(found[3]))
        return found[0] if where is None else f"{where.source}:{where.line}:{where.column}"

    return position.sub(replaced, stack)
