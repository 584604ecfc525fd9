"""Lanes: which tunnel of a caller leads to which cell of the worker that it calls.

Pure. A tunnel that carries calls stays with the process it was opened to, so callers keep several of
them for each worker, by number. Promises: a cell keeps its lane as long as it takes traffic; a new
cell gets a lane that was not the last one's, so that callers open a tunnel of its own to it and leave
the old cell's to the calls that are inside. Lane LANES is nobody's: there HAProxy chooses.
"""

from collections.abc import Mapping

LANES = 8
"""As in `run/bindings_services.py`; more than a worker has versions at the same time."""
LANE_MARK = "-"

Lanes = dict[str, dict[str, tuple[int, int]]]
"""Mark of a worker, then name of a server: its lane and weight."""


def lanes_of(weights: Mapping[str, Mapping[str, int]], before: Mapping[str, str]) -> Lanes:
    """Give each server of each worker a lane; `before` are the last plan's `server_rows`."""
    had: dict[str, dict[str, int]] = {}
    for key, server in before.items():
        mark, _, lane = key.rpartition(LANE_MARK)
        had.setdefault(mark, {})[server] = int(lane)
    return {mark: _given(servers, had.get(mark, {})) for mark, servers in weights.items()}


def _given(weights: Mapping[str, int], had: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    kept = {server: had[server] for server in weights if server in had}
    at = max(had.values(), default=-1)
    taken = {*had.values()}
    for server in sorted(weights.keys() - kept.keys()):
        # Round and round: the lane that was free for longest comes first. With more cells than lanes
        # some share one, and HAProxy sends both to the later one.
        free = [(at + step) % LANES for step in range(1, LANES + 1)]
        at = next((lane for lane in free if lane not in taken), free[0])
        kept[server] = at
        taken.add(at)
    return {server: (kept[server], weights[server]) for server in sorted(kept)}


def lane_rows(lanes: Lanes) -> dict[str, str]:
    """Return, by mark, `lane:weight,lane:weight`: what callers are told."""
    return {
        mark: ",".join(f"{lane}:{weight}" for lane, weight in servers.values())
        for mark, servers in lanes.items()
        if servers
    }


def server_rows(lanes: Lanes) -> dict[str, str]:
    """Return `mark-lane` to server: where HAProxy sends a tunnel."""
    return {
        f"{mark}{LANE_MARK}{lane}": server
        for mark, servers in lanes.items()
        for server, (lane, _) in servers.items()
    }
