"""Percentages of a deployment, as HAProxy's weights and as sticky buckets.

Pure. Requests without a version key are dealt by weights, round robin, so the split is exact over
any `sum(weights)` requests. A request with a `Cloudflare-Workers-Version-Key` is hashed into one
of BUCKETS; which version owns a bucket depends on version ids and percentages alone, never on the
cells that happen to run them, so a key keeps its version when cells are swapped, and when a share
grows only the keys that must move do.
"""

from collections.abc import Iterator, Mapping, Sequence

WEIGHT_MAX = 256
BUCKET_DIGITS = 4
BUCKETS = 10**BUCKET_DIGITS
"""A key's bucket is looked up as `1dddd` (10000 + bucket): zero-padding without a converter."""


def weights(percentages: Sequence[float]) -> list[int]:
    """Return weights (0 to 256) closest in proportion; nothing above 0 % becomes 0.

    Of equally close ones the smallest are taken: 10 % and 90 % are 1 and 9."""
    largest = max(percentages, default=0.0)
    if largest <= 0:
        return [0 for _ in percentages]
    total = sum(percentages)
    best: list[int] = []
    best_error = float("inf")
    for top in range(1, WEIGHT_MAX + 1):
        tried = [max(1, round(p * top / largest)) if p > 0 else 0 for p in percentages]
        scale = total / sum(tried)
        error = max(abs(w * scale - p) for w, p in zip(tried, percentages, strict=True))
        if error < best_error - 1e-9:
            best, best_error = tried, error
        if best_error <= 1e-9:
            break  # exact: at once for a lone version, which nearly every worker has
    return best


def sticky_rows(shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield `(prefix of 1dddd, version)` rows of which the longest that matches decides.

    Nothing for a lone version: there is nothing to stick to."""
    wanted = {version: share for version, share in sorted(shares.items()) if share > 0}
    if len(wanted) < 2:
        return
    rest = max(wanted, key=lambda version: wanted[version])
    yield "1", rest
    total = sum(wanted.values())
    begin, reached = 0, 0.0
    for version, share in wanted.items():
        reached += share
        end = round(reached * BUCKETS / total)
        if version != rest:
            for prefix in _prefixes(begin, end, BUCKETS // 10, "1"):
                yield prefix, version
        begin = end


def _prefixes(begin: int, end: int, size: int, parent: str) -> Iterator[str]:
    """Yield the fewest decimal prefixes that cover buckets `begin` to `end - 1` of `parent`."""
    for digit in range(10):
        low = digit * size
        high = low + size
        if begin <= low and high <= end:
            yield f"{parent}{digit}"
        elif low < end and begin < high:
            yield from _prefixes(
                max(begin - low, 0), min(end - low, size), size // 10, f"{parent}{digit}"
            )
