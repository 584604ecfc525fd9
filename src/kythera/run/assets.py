"""A version's static assets, laid out as the directory that workerd's asset service reads.

Promises that a tree is whole or absent, that laying the same manifest out again is a no-op, and
that files keep their blobs' modification times: workerd's validators (ETag) are made of path,
size and time, and blobs' times are made of their digests. Refuses paths that would leave the tree.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kythera.model.errors import KytheraError, Refusal
from kythera.model.records import Asset

UNTYPED = ("", "application/null")
TYPED = frozenset(
    """
    apng atom avif bmp cjs css csv eot flac gif gz htm html ico ics jpeg jpg js json jsonld m4a map
    md mjs mov mp3 mp4 oga ogg ogv otf pdf png rss svg tar ttf txt wasm wav webm webmanifest webp
    woff woff2 xml zip
    """.split()
)
"""Extensions whose type workerd knows, as wrangler does but for cjs and flac: left to it."""
CONFIG_KEYS = {
    "html_handling": "html_handling",
    "not_found_handling": "not_found_handling",
    "run_worker_first": "run_worker_first",
    "base_path": "base_path",
    "_headers": "headers",
    "_redirects": "redirects",
}
"""wrangler's names of the settings, and the asset service's."""


def check_path(path: str) -> tuple[str, ...]:
    """Return an asset path's segments. Refuses what cannot be a file below the tree."""
    segments = tuple(path.split("/")[1:])
    if not path.startswith("/") or any(part in ("", ".", "..") for part in segments):
        raise Refusal(10021, f"asset path {path!r} is not a plain absolute path, such as /a/b.css.")
    if "\0" in path or any(len(os.fsencode(part)) > 255 for part in segments):
        raise Refusal(10021, f"asset path {path!r} has a name that no file can have.")
    return segments


def tree_name(manifest: Sequence[Asset]) -> str:
    """Return the name of a manifest's tree: equal for equal paths and contents."""
    lines = sorted(f"{asset.digest} {asset.path}\n" for asset in manifest)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def materialise(manifest: Sequence[Asset], blob_path: Callable[[str], Path], root: Path) -> Path:
    """Return the manifest's tree below `root`, made of hard links to blobs (or copies)."""
    tree = root / tree_name(manifest)
    if tree.is_dir():
        return tree
    paths = [(check_path(asset.path), blob_path(asset.digest)) for asset in manifest]
    root.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=root))
    try:
        for segments, blob in paths:
            _place(blob, unfinished.joinpath(*segments))
        for folder, _, _ in os.walk(unfinished):
            Path(folder).chmod(0o755)  # cells have uids of their own; what is above is private
        _publish(unfinished, tree)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return tree


def _place(blob: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(blob, target)
        except OSError as error:
            # Another file system, or more links than this one allows.
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise
            shutil.copyfile(blob, target)
            stat = blob.stat()
            os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    except (FileExistsError, NotADirectoryError):
        raise Refusal(
            10021, f"asset {target.name!r} is listed twice, or is a file and a folder at once."
        ) from None
    except FileNotFoundError:
        raise KytheraError(f"the content of asset {target.name!r} (blob {blob}) is gone.") from None


def _publish(unfinished: Path, tree: Path) -> None:
    try:
        unfinished.rename(tree)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise  # else somebody else has laid the same tree out just now


def service_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return wrangler's asset settings as the asset service names them; unset ones are left out."""
    return {
        CONFIG_KEYS[key]: value
        for key, value in config.items()
        if key in CONFIG_KEYS and value is not None
    }


def content_types(manifest: Sequence[Asset]) -> dict[str, dict[str, str]] | None:
    """Return the uploaded types of names that workerd cannot guess, or None when there is none:
    by extension where all agree, else by path."""
    by_extension: dict[str, set[str]] = {}
    for asset in manifest:
        by_extension.setdefault(_extension(asset.path), set()).add(asset.content_type)
    unknown = {name: types for name, types in by_extension.items() if name not in TYPED}
    extensions = {
        extension: next(iter(types))
        for extension, types in unknown.items()
        if len(types) == 1 and not types.intersection(UNTYPED)
    }
    paths = {
        asset.path: asset.content_type
        for asset in manifest
        if _extension(asset.path) in unknown.keys() - extensions.keys()
        and asset.content_type not in UNTYPED
    }
    return {"extensions": extensions, "paths": paths} if extensions or paths else None


def _extension(path: str) -> str:
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot else ""
