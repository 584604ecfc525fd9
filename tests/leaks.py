"""Looking for a secret where none may be: in files, process tables and answers, in every form that
software gives to text.

A needle is the whole secret, its core of letters and digits alone, or one end of that, so that a leak
that was cut, quoted or escaped is found too. What this cannot see: memory, and what was swapped out.
"""

import base64
import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus

from tests.processes import PROC

PART_CHARACTERS = 12
"""Of a core, so few are enough: nothing else here has them by chance."""


@dataclass(frozen=True)
class Planted:
    """A secret made to be found: letters and digits between characters that need escaping."""

    core: str

    @property
    def text(self) -> str:
        """The secret as it is set."""
        return f'ä&"{self.core}/ %'


def forms(planted: Planted) -> dict[str, bytes]:
    """Return what a leak would look like, by the name of its form."""
    found: dict[str, bytes] = {}
    core = planted.core
    parts = {
        "whole": planted.text,
        "core": core,
        "begin": core[:PART_CHARACTERS],
        "end": core[-PART_CHARACTERS:],
    }
    for part, text in parts.items():
        data = text.encode()
        found[f"{part}, raw"] = data
        found[f"{part}, UTF-16"] = text.encode("utf-16-le")
        found[f"{part}, URL"] = quote(text, safe="").encode()
        found[f"{part}, form"] = quote_plus(text).encode()
        found[f"{part}, hex"] = data.hex().encode()
        found[f"{part}, HEX"] = data.hex().upper().encode()
        found[f"{part}, reversed"] = data[::-1]
        for shift in range(3):
            inner = in_base64(data, shift)
            found[f"{part}, base64 at {shift}"] = inner
            found[f"{part}, URL base64 at {shift}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return found


def in_base64(data: bytes, shift: int) -> bytes:
    """Return the characters that data has within base64 where `shift` bytes come before it: those
    that its neighbours have no part in."""
    padded = bytes(shift) + data
    first = -(-8 * shift // 6)
    return base64.b64encode(padded)[first : 8 * len(padded) // 6]


def in_data(data: "bytes | mmap.mmap", needles: dict[str, bytes]) -> list[str]:
    """Return the names of the forms that are in some bytes."""
    return [name for name, needle in needles.items() if data.find(needle) >= 0]


def in_files(roots: Iterable[Path], needles: dict[str, bytes]) -> Iterator[str]:
    """Yield where forms are found in the files below some folders (or in some files)."""
    for root in roots:
        for path in [root, *root.rglob("*")] if root.is_dir() else [root]:
            for name in in_data(str(path.name).encode(), needles):
                yield f"{path}: {name}, in its name"
            if not path.is_file() or path.is_symlink() or path.stat().st_size == 0:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
                for name in in_data(data, needles):
                    yield f"{path}: {name}"


def in_processes(pids: Iterable[int], needles: dict[str, bytes]) -> Iterator[str]:
    """Yield where forms are found in what the process table shows of some processes."""
    for pid in pids:
        for entry in ("cmdline", "environ", "comm", "status", "maps"):
            try:
                data = (PROC / str(pid) / entry).read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            except PermissionError:
                if os.geteuid() == 0:
                    raise
                continue  # root alone sees it, who sees all
            for name in in_data(data, needles):
                yield f"process {pid}, {entry}: {name}"


def in_answers(answers: dict[str, bytes], needles: dict[str, bytes]) -> Iterator[str]:
    """Yield where forms are found in what was said, by who said it."""
    for who, data in answers.items():
        for name in in_data(data, needles):
            yield f"{who}: {name}"
