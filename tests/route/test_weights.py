"""Percentages become weights and buckets without losing anybody."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kythera.route.weights import BUCKETS, WEIGHT_MAX, sticky_rows, weights

parts = st.lists(st.floats(0, 100).map(lambda share: round(share, 2)), min_size=1, max_size=4)
splits = parts.filter(lambda shares: sum(shares) > 0)


def test_usual_splits_are_exact() -> None:
    """Whole percentages of two versions need no rounding."""
    for percent in range(1, 100):
        one, other = weights([percent, 100 - percent])
        assert one * (100 - percent) == other * percent
    assert weights([10, 90]) == [1, 9]
    assert weights([100, 0]) == [1, 0]
    assert weights([0, 0]) == [0, 0]
    assert weights([]) == []


@given(splits)
def test_weights_are_haproxys_and_nobody_with_a_share_gets_none(shares: list[float]) -> None:
    """0 stays 0, the rest is 1 to 256, and order is kept."""
    found = weights(shares)
    assert all((weight == 0) == (share == 0) for weight, share in zip(found, shares, strict=True))
    assert all(0 <= weight <= WEIGHT_MAX for weight in found)
    ranked = sorted(zip(shares, found, strict=True))
    assert [weight for _, weight in ranked] == sorted(found)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0, 0.01, 1, 10, 33.3, 50, 90])))
def test_buckets_hold_each_version_to_its_share(shares: dict[str, float]) -> None:
    """The longest prefix decides; every bucket has one owner; shares are met to 0.01 %."""
    rows = dict(sticky_rows(shares))
    wanted = {version: share for version, share in shares.items() if share > 0}
    if len(wanted) < 2:
        assert rows == {}
        return
    found = Counter(_owner(rows, bucket) for bucket in range(BUCKETS))
    total = sum(wanted.values())
    for version, share in wanted.items():
        assert abs(found[version] / BUCKETS - share / total) <= 1 / BUCKETS
    assert len(rows) <= 100


def test_a_growing_share_moves_only_the_keys_it_gains() -> None:
    """From 10 % to 50 %, who saw the new version goes on seeing it."""
    for new, old in (("a", "b"), ("b", "a")):
        before = dict(sticky_rows({new: 10, old: 90}))
        after = dict(sticky_rows({new: 50, old: 50}))
        for bucket in range(BUCKETS):
            if _owner(before, bucket) == new:
                assert _owner(after, bucket) == new


def _owner(rows: dict[str, str], bucket: int) -> str:
    key = str(BUCKETS + bucket)
    return next(rows[key[:size]] for size in range(len(key), 0, -1) if key[:size] in rows)
