"""Lanes: each cell keeps its own, and what follows another one gets a different one."""

from hypothesis import given
from hypothesis import strategies as st

from kythera.route.lanes import LANES, lane_rows, lanes_of, server_rows

shares = st.dictionaries(
    st.sampled_from(["m1", "m2"]),
    st.dictionaries(st.sampled_from([f"c{n}" for n in range(6)]), st.integers(0, 256), max_size=3),
    max_size=2,
)


@given(st.lists(shares, min_size=1, max_size=12))
def test_a_cell_keeps_its_lane_and_a_new_one_gets_another(
    history: list[dict[str, dict[str, int]]],
) -> None:
    """Goal: callers keep their tunnels, and never take an old cell's for a new one's."""
    before: dict[str, str] = {}
    for weights in history:
        lanes = lanes_of(weights, before)
        for mark, servers in lanes.items():
            numbers = [lane for lane, _ in servers.values()]
            assert len(set(numbers)) == len(numbers)
            assert all(0 <= lane < LANES for lane in numbers)
            had = {
                server: int(key.rpartition("-")[2])
                for key, server in before.items()
                if key.startswith(f"{mark}-")
            }
            for server, (lane, weight) in servers.items():
                assert weight == weights[mark][server]
                if server in had:
                    assert lane == had[server]
                else:
                    assert lane not in had.values()
        before = server_rows(lanes)


def test_callers_are_told_lanes_and_weights() -> None:
    """Goal: one line for a worker; one without cells has none, so that HAProxy chooses."""
    lanes = lanes_of({"m": {"c1": 9, "c2": 1}, "n": {}}, {"m-7": "c1"})
    assert lane_rows(lanes) == {"m": "7:9,0:1"}
    assert server_rows(lanes) == {"m-7": "c1", "m-0": "c2"}


def test_with_more_cells_than_lanes_each_has_one() -> None:
    """Goal: nothing fails at an unheard-of number of versions."""
    many = {f"c{n:02}": 1 for n in range(LANES + 3)}
    lanes = lanes_of({"m": many}, {})
    assert len(lanes["m"]) == LANES + 3
