"""The workers and request scripts that are run at both places, and the differences that are argued.

A case is a folder below `workers`: `worker.js`, and `script.json` with `requests` (path, method, headers, body),
and what its wrangler configuration needs (`compatibility_flags`, `config`).
"""

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WORKERS = FOLDER / "workers"
COMPATIBILITY_DATE = "2026-05-01"
"""Known to the workerd of every wrangler that is compared with."""


ANY = "…"


@dataclass(frozen=True)
class Request:
    """One request of a script."""

    path: str
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None

    @property
    def content(self) -> bytes | None:
        """Return the body; a character is a byte."""
        return None if self.body is None else self.body.encode("latin-1", errors="replace")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Case:
    """One worker and what is asked of it, in this order."""

    name: str
    requests: tuple[Request, ...]
    flags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """Return the worker's only file."""
        return WORKERS / self.name / "worker.js"

    def wrangler(self) -> dict[str, Any]:
        """Return its wrangler configuration."""
        return {
            "name": self.name,
            "main": str(self.source),
            "compatibility_date": COMPATIBILITY_DATE,
            "compatibility_flags": list(self.flags),
            **self.config,
        }


@dataclass(frozen=True)
class Difference:
    """One that is known: where, in what, and why it is right so."""

    case: str
    request: str
    part: str
    """`status`, `body`, `header NAME`, or `body KEY` of a JSON object."""
    why: str
    here: Any = ANY
    there: Any = ANY
    """What it is, where it is always the same."""

    def covers(self, part: str, here: Any, there: Any) -> bool:
        """Tell whether this is the difference that was found."""
        values = ((self.here, here), (self.there, there))
        return part == self.part and all(said in (ANY, found) for said, found in values)


def cases() -> list[Case]:
    """Return all cases, by name."""
    return [_read(folder) for folder in sorted(WORKERS.iterdir()) if folder.is_dir()]


def _read(folder: Path) -> Case:
    found = json.loads((folder / "script.json").read_text(encoding="utf-8"))
    return Case(
        folder.name,
        tuple(Request(**request) for request in found["requests"]),
        tuple(found.get("compatibility_flags", ())),
        found.get("config", {}),
    )


def argued() -> list[Difference]:
    """Return the known differences."""
    text = (FOLDER / "differences.toml").read_text(encoding="utf-8")
    return [Difference(**row) for row in tomllib.loads(text).get("difference", [])]
