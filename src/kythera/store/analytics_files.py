"""Where data points lie, and what they are made of: `<account>/<dataset in hex>/<segment>.ndjson`. Pure
but for listing folders."""

from collections.abc import Iterator
from pathlib import Path

COUNT = 20
BLOBS = tuple(f"blob{number}" for number in range(1, COUNT + 1))
DOUBLES = tuple(f"double{number}" for number in range(1, COUNT + 1))
FIELDS = ("index1", *DOUBLES, *BLOBS)
"""Of a point, beside its moment (`timestamp`, nanoseconds)."""


def dataset_folder(folder: Path, account: str, dataset: str) -> Path:
    """Return where a dataset's segments lie; any name is a good one."""
    return folder / account / dataset.encode().hex()


def datasets_of(folder: Path, account: str) -> dict[str, list[Path]]:
    """Return an account's datasets by name, with their segments, the oldest first."""
    found: dict[str, list[Path]] = {}
    for each in sorted((folder / account).glob("*")):
        segments = sorted(path for path in each.glob("*.ndjson") if path.stat().st_size)
        if segments:
            found[bytes.fromhex(each.name).decode(errors="replace")] = segments
    return found


def segments_of(folder: Path) -> Iterator[Path]:
    """Yield all segments of all accounts."""
    yield from folder.glob("*/*/*.ndjson")
