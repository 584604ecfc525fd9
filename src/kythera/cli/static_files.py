"""A folder of static assets as the API takes it: paths, hashes, sizes; `.assetsignore` honoured.

The hash is the one wrangler computes, so that both tools find each other's uploads.
"""

import base64
import mimetypes
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from kythera.model.errors import KytheraError
from kythera.model.limits import Limits

NEVER_SERVED = ("/.assetsignore", "/_headers", "/_redirects")
"""They steer the assets and are sent as text with the version, or not at all."""
TEXTUAL = ("application/javascript", "application/json", "image/svg+xml")
TYPES = mimetypes.MimeTypes()
"""Python's own table, without what the machine may have installed: equal on all machines."""
for _suffix, _kind in {
    ".avif": "image/avif",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    TYPES.add_type(_kind, _suffix)


class AssetsError(KytheraError):
    """A folder of assets cannot be uploaded as it is."""


@dataclass(frozen=True)
class StaticFile:
    """One file of the folder: `path` is how it is asked for ("/a/b.css")."""

    path: str
    file: Path
    hash: str
    size: int

    @property
    def content_type(self) -> str:
        """Return the type the visitor gets ("application/null": none)."""
        return content_type(self.path)


def content_type(path: str) -> str:
    """Return a file's type by its name."""
    kind = TYPES.guess_type(path)[0]
    if kind is None:
        return "application/null"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind in TEXTUAL else kind


def asset_hash(data: bytes, suffix: str) -> str:
    """Return a file's name in an upload: BLAKE3 over base64 and suffix, 32 hex digits."""
    return blake3(base64.b64encode(data) + suffix.removeprefix(".").encode()).hexdigest()[:32]


def gather(folder: Path, limits: Limits) -> list[StaticFile]:
    """Return all files below `folder` that are to be served, by path."""
    rules = folder / ".assetsignore"
    ignored = ignore_rules(rules.read_text() if rules.is_file() else "")
    found = []
    for path, file in _walk(folder):
        if path == "/_worker.js" and not ignored(path):
            raise AssetsError(
                f"{file} would be served to visitors.",
                remedy="Name it as `main` and list it in .assetsignore.",
            )
        if path not in NEVER_SERVED and not ignored(path):
            found.append(_read(path, file, limits))
    if len(found) > limits.assets_files_max:
        raise AssetsError(
            f"{folder} has {len(found)} files; {limits.assets_files_max} are the most.",
            remedy="List what visitors do not need in .assetsignore.",
        )
    return found


def _walk(folder: Path) -> Iterable[tuple[str, Path]]:
    files = (Path(base) / name for base, _dirs, names in os.walk(folder) for name in names)
    for file in sorted(files):
        yield "/" + file.relative_to(folder).as_posix(), file


def _read(path: str, file: Path, limits: Limits) -> StaticFile:
    data = file.read_bytes()
    if len(data) > limits.asset_bytes_max:
        raise AssetsError(
            f"{file} has {len(data)} bytes; {limits.asset_bytes_max} are the most.",
            remedy="Make it smaller, list it in .assetsignore, or raise the limit: "
            "kythera up --limit asset_bytes_max=…",
        )
    return StaticFile(path, file, asset_hash(data, Path(path).suffix), len(data))


def ignore_rules(text: str) -> Callable[[str], bool]:
    """Return the test that a `.assetsignore` (gitignore's grammar) describes. Pure."""
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for line in text.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            wanted = pattern.startswith("!")
            rules.append((not wanted, _as_regex(pattern.removeprefix("!"))))

    def ignored(path: str) -> bool:
        verdict = False
        for verdict_if_match, rule in rules:
            if rule.fullmatch(path):
                verdict = verdict_if_match
        return verdict

    return ignored


def _as_regex(pattern: str) -> re.Pattern[str]:
    """Translate one gitignore pattern; it also covers everything below a folder it names."""
    anchored = "/" in pattern.rstrip("/")
    body = pattern.strip("/")
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", body)
    regex = "".join(pieces.get(token, re.escape(token)) for token in tokens)
    below = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    return re.compile(("/" if anchored else "/(?:.*/)?") + regex + below, re.DOTALL)
