"""Source maps: stacks speak of the lines that somebody wrote, and damage maps nothing."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.deploy.source_map import Position, SourceMap, decode_vlq, map_stack

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def encode_vlq(numbers: list[int]) -> str:
    """Write numbers as the format does (the inverse, for tests)."""
    text = ""
    for number in numbers:
        rest = (-number << 1) | 1 if number < 0 else number << 1
        while True:
            digit, rest = rest & 31, rest >> 5
            text += DIGITS[digit | (32 if rest else 0)]
            if not rest:
                break
    return text


def source_map(mappings: str, *sources: str, **more: object) -> SourceMap:
    """Return a map of these mappings."""
    document = {"version": 3, "sources": sources, "names": [], "mappings": mappings, **more}
    return SourceMap.parse(json.dumps(document).encode())


@given(st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=6))
def test_numbers_come_back_as_they_were_written(numbers: list[int]) -> None:
    """Goal: the encoding is read right for every number."""
    assert decode_vlq(encode_vlq(numbers)) == numbers


places = st.tuples(st.integers(0, 500), st.integers(0, 2), st.integers(0, 900), st.integers(0, 99))


@given(st.lists(st.lists(places, unique_by=lambda place: place[0]), max_size=6))
def test_every_mapped_position_is_found(lines: list[list[tuple[int, int, int, int]]]) -> None:
    """Goal: a position leads to the segment at or before it, in any map."""
    source = line = column = 0
    texts = []
    for segments in lines:
        generated, parts = 0, []
        for at, s, ln, col in sorted(segments):
            parts.append(encode_vlq([at - generated, s - source, ln - line, col - column]))
            generated, source, line, column = at, s, ln, col
        texts.append(",".join(parts))
    found = source_map(";".join(texts), "a.ts", "b.ts", "c.ts")
    for number, segments in enumerate(lines):
        ordered = sorted(segments)
        ends = [at for at, *_ in ordered[1:]] + [10**6]
        for (at, s, ln, col), end in zip(ordered, ends, strict=False):
            expected = Position("abc"[s] + ".ts", ln + 1, col + 1)
            assert found.original(number + 1, at + 1) == expected
            assert found.original(number + 1, end) == expected
        if ordered and ordered[0][0] > 0:
            assert found.original(number + 1, ordered[0][0]) is None
    assert found.original(len(lines) + 1, 1) is None


@given(st.text() | st.text(DIGITS + ",;"))
def test_damaged_mappings_map_nothing(mappings: str) -> None:
    """Goal: whatever was uploaded, a stack is never lost."""
    found = {"index.js": source_map(mappings, "a.ts")}
    mapped = map_stack("Error: x\n    at f (index.js:1:5)", found)
    assert mapped.startswith("Error: x\n    at f (")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"version": 2}', b"\xff"])
def test_what_is_no_map_is_refused(data: bytes) -> None:
    """Goal: garbage is told apart when it is read."""
    with pytest.raises(ValueError):
        SourceMap.parse(data)


def test_frames_of_every_shape_are_mapped() -> None:
    """Goal: V8's stacks and workerd's refusals, names with `./` or without, others untouched."""
    maps = {"./index.js": source_map("AAAA;AAEE", "../../src/app.ts")}
    stack = """TypeError: boom index.js:2:1
    at async Object.fetch (index.js:2:1)
    at ./index.js:2:9
    at other-index.js:2:1
    at lib/index.js:2:1
    at index.js:99:1
  at index.js:2:3 in foo"""
    assert map_stack(stack, maps).split("\n")[1:] == [
        "    at async Object.fetch (src/app.ts:3:3)",
        "    at src/app.ts:3:3",
        "    at other-index.js:2:1",
        "    at lib/index.js:2:1",
        "    at index.js:99:1",
        "  at src/app.ts:3:3 in foo",
    ]
    assert map_stack(stack, {}) == stack


def test_sections_and_roots_are_understood() -> None:
    """Goal: indexed maps, and sources below a root."""
    inner = {"version": 3, "sources": ["a.ts"], "sourceRoot": "/src/", "mappings": "AACA"}
    sections = [
        {"offset": {"line": 0, "column": 0}, "map": inner},
        {"offset": {"line": 4, "column": 2}, "map": inner | {"sources": ["b.ts"]}},
    ]
    found = SourceMap.parse(json.dumps({"version": 3, "sections": sections}).encode())
    assert found.original(1, 1) == Position("src/a.ts", 2, 1)
    assert found.original(5, 3) == Position("src/b.ts", 2, 1)
    assert found.original(5, 2) is None


ESBUILD = Path(__file__).parents[2] / "node_modules" / ".bin" / "esbuild"


@pytest.mark.real
def test_a_map_that_esbuild_made_leads_to_the_source(tmp_path: Path) -> None:
    """Goal: minified as wrangler's bundler minifies, a stack leads back to the line."""
    if shutil.which("node") is None:
        pytest.skip("needs node, which `make setup` brings")
    code = "\n\nexport function deep(): never {\n  throw new TypeError('boom');\n}\ndeep();\n"
    (tmp_path / "app.ts").write_text(code)
    argv = [str(ESBUILD), "app.ts", "--bundle", "--minify", "--sourcemap", "--outfile=out.js"]
    subprocess.run([*argv, "--format=esm"], cwd=tmp_path, check=True, capture_output=True)
    bundle = (tmp_path / "out.js").read_text()
    found = SourceMap.parse((tmp_path / "out.js.map").read_bytes())
    column = bundle.split("\n", maxsplit=1)[0].index("new TypeError") + 1
    mapped = map_stack(f"    at out.js:1:{column}", {"out.js": found})
    assert mapped == "    at app.ts:4:9"
