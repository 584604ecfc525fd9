"""Where R2's objects are, settled at each start: with this machine's own engine, or at another endpoint.

A word in the data folder says where, so that a start without the options, or of a restored backup, does not
show empty buckets. Promises: an endpoint is tried before it is named, and again at each start at which
it answers; one that does not answer later keeps nobody from starting. Refuses: to name one while objects
lie in this machine's engine, which nobody would find any more.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from kythera.ground.files import write_private
from kythera.ground.journal import Journal
from kythera.ground.layout import Layout
from kythera.model.errors import SetupError

OWN = "own"
"""What is named instead of an endpoint to end that there is one."""
TRIED_S_MAX = 60.0


class Where(Struct, frozen=True):
    """What the word in the data folder says."""

    url: str
    prefix: str = ""


class Elsewhere(Struct, frozen=True):
    """What is settled; empty: this machine's own engine."""

    url: str = ""
    key: str = ""
    """The file that holds it."""


class Verdict(Struct, frozen=True):
    """What a trial of an endpoint found (`kythera.store.r2_elsewhere` prints it)."""

    url: str
    prefix: str = ""
    refused: str = ""
    remedy: str = ""
    silent: str = ""


Try = Callable[[str, str], Verdict]
"""An endpoint's URL and the file with its key → whether it is fit."""


def tried(url: str, key: str) -> Verdict:
    """Try an endpoint, in a process of its own. Raises SetupError when that does not end well."""
    import subprocess  # here: the keeper, which forks, imports nothing that it rarely needs

    argv = [sys.executable, "-m", "kythera.store.r2_elsewhere", url, key]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIED_S_MAX, check=False
        )
        return msgspec.json.decode(done.stdout, type=Verdict)
    except subprocess.TimeoutExpired:
        return Verdict(url, silent=f"no answer within {TRIED_S_MAX:.0f} s")
    except msgspec.MsgspecError:
        told = done.stderr.decode(errors="replace").strip()[-300:]
        raise SetupError(
            f"R2's endpoint {url} could not be tried: {told}.", remedy="Run `make setup`."
        ) from None


def settled(
    layout: Layout, asked: Elsewhere, before: Elsewhere, journal: Journal, try_: Try = tried
) -> Elsewhere:
    """Return where R2's objects are from this start on. Raises SetupError."""
    word = layout.data / "r2" / "elsewhere.json"
    if asked.url == OWN:
        word.unlink(missing_ok=True)
        return Elsewhere()
    known = _known(word)
    url, key = asked.url or (known.url if known else ""), asked.key or before.key
    if not url and not asked.key:
        return Elsewhere()
    if not url:
        raise SetupError("--r2-key is the key of an endpoint.", remedy="Add --r2-endpoint URL.")
    if not key:
        raise SetupError(
            f"R2's objects are at {url}, and nobody has said by which key.",
            remedy=f"Add --r2-key FILE; or begin anew with empty buckets: --r2-endpoint {OWN}",
        )
    _refuse_hiding(layout, known)
    verdict = try_(url, key)
    where = Where(verdict.url, verdict.prefix)
    _judge(verdict, journal, new=where != known)
    for folder in (layout.data, word.parent):
        folder.mkdir(mode=0o700, exist_ok=True)
    write_private(word, msgspec.json.encode(where))
    return Elsewhere(where.url, key)


def _known(word: Path) -> Where | None:
    try:
        return msgspec.json.decode(word.read_bytes(), type=Where)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise SetupError(
            f"{word} does not say where R2's objects are: {error}.",
            remedy="Restore it from a backup.",
        ) from None


def _refuse_hiding(layout: Layout, known: Where | None) -> None:
    engine = layout.data / "r2" / "engine"
    if known is None and engine.exists():
        raise SetupError(
            "this machine's own engine keeps objects of R2; with another endpoint nobody would"
            " find them.",
            remedy=f"Copy them there (kythera up --s3, then rclone), then remove {engine}.",
        )


def _judge(verdict: Verdict, journal: Journal, *, new: bool) -> None:
    if verdict.refused:
        raise SetupError(verdict.refused, remedy=verdict.remedy)
    if verdict.silent and new:
        raise SetupError(
            f"{verdict.url} cannot be R2's endpoint: {verdict.silent}",
            remedy="See that it runs, and that the key in --r2-key may make buckets, write, list and"
            " delete there.",
        )
    if verdict.silent:
        journal.warn("r2_endpoint_does_not_answer", url=verdict.url, why=verdict.silent)
