"""The counters of the rate-limiting binding."""

from hypothesis import given
from hypothesis import strategies as st

from kythera.store.rate_limits import Asked, Windows

ACCOUNT, NAMESPACE = "a", "1001"


def asked(key: str = "k", limit: int = 3, period: int = 10, delta: int = 1) -> Asked:
    """Return what a binding asks."""
    return Asked(key, limit, period, delta)


def test_so_many_requests_as_the_limit_says_pass_in_a_window() -> None:
    """Goal: the fourth of three is refused, until the window that the first one opened has ended."""
    windows = Windows(100)
    assert [windows.take(ACCOUNT, NAMESPACE, asked(), at) for at in (5, 6, 7, 8, 14.9, 15)] == [
        *(True, True, True),
        *(False, False, True),
    ]


def test_counters_belong_to_an_account_a_namespace_and_a_key() -> None:
    """Goal: nobody uses up what is another's, whatever it is called."""
    windows = Windows(100)
    for account in ("a", "b"):
        for namespace in ("1", "2"):
            for key in ("x", "y", "\ud800"):
                assert windows.take(account, namespace, asked(key, limit=1), 0)
                assert not windows.take(account, namespace, asked(key, limit=1), 0)


def test_what_is_refused_is_not_counted() -> None:
    """Goal: one request of weight 3 that does not fit leaves room for one of weight 1."""
    windows = Windows(100)
    assert windows.take(ACCOUNT, NAMESPACE, asked(delta=2), 0)
    assert not windows.take(ACCOUNT, NAMESPACE, asked(delta=3), 0)
    assert windows.take(ACCOUNT, NAMESPACE, asked(delta=1), 0)


def test_memory_is_bounded_and_windows_that_ended_are_forgotten() -> None:
    """Goal: a flood of keys takes the room of the oldest, and no more."""
    windows = Windows(10)
    for number in range(100):
        assert windows.take(ACCOUNT, NAMESPACE, asked(f"key {number}", limit=1), 0)
    assert len(windows) == 10
    assert not windows.take(ACCOUNT, NAMESPACE, asked("key 99", limit=1), 0)
    windows.sweep(10)
    assert len(windows) == 0


@given(
    st.lists(st.tuples(st.floats(0, 30), st.sampled_from("abc"), st.integers(1, 4)), max_size=60),
    st.integers(0, 6),
)
def test_no_window_ever_lets_more_pass_than_its_limit(
    requests: list[tuple[float, str, int]], limit: int
) -> None:
    """Goal: whatever comes in which order, what passes within one window is at most the limit."""
    windows, passed = Windows(100), dict[str, list[tuple[float, int]]]()
    opened = dict[str, float]()
    for at, key, delta in sorted(requests):
        if key not in opened or at >= opened[key] + 10:
            opened[key], passed[key] = at, []
        if windows.take(ACCOUNT, NAMESPACE, asked(key, limit, 10, delta), at):
            passed[key].append((at, delta))
        assert sum(weight for _, weight in passed[key]) <= limit
