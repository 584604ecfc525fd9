"""Refusals that several parts of the API share, with the codes wrangler acts on.

Each returns (never raises) a `Refusal`, so that the caller's `raise` shows where it happened.
"""

from collections.abc import Sequence

from kythera.model.errors import Refusal

BODY_UNREADABLE = 10026
VALIDATION = 10021
TOO_BIG = 10027


class Refusals(Refusal):
    """Several reasons at once; the first one decides what wrangler does."""

    def __init__(self, reasons: Sequence[tuple[int, str]], *, status: int = 400) -> None:
        assert reasons, "a refusal has a reason"
        super().__init__(*reasons[0], status=status)
        self.reasons = tuple(reasons)


def invalid(message: str, *, remedy: str = "") -> Refusal:
    """Refuse what was asked for: wrangler shows the text to the person (10021)."""
    return Refusal(VALIDATION, message, remedy=remedy)


def unreadable(message: str, *, remedy: str = "") -> Refusal:
    """Refuse a body that is not what this address takes."""
    return Refusal(BODY_UNREADABLE, message, remedy=remedy)


def too_big(message: str, *, remedy: str = "") -> Refusal:
    """Refuse a body, part or record above its limit."""
    return Refusal(TOO_BIG, message, status=413, remedy=remedy)


def worker_absent(name: str) -> Refusal:
    """Say that there is no such worker; wrangler's first deploy depends on this code."""
    return Refusal(10007, f"This Worker ({name!r}) does not exist on your account.", status=404)


def version_absent(version_id: str, worker: str) -> Refusal:
    """Say that a worker has no such version."""
    return Refusal(
        10222,
        f"Worker {worker!r} has no version {version_id!r}.",
        status=404,
        remedy="`wrangler versions list` shows those it has.",
    )


def latest_not_deployed(worker: str) -> Refusal:
    """Refuse to change secrets in place while the newest version is not the one that serves."""
    return Refusal(
        10215,
        f"Secret edit failed: the latest version of Worker {worker!r} is not fully deployed.",
        remedy="Deploy it first (`wrangler versions deploy`), or use `wrangler versions secret`.",
    )
