"""wrk, the load generator for throughput: C, keep-alive, and nothing of ours in the way."""

import re
from dataclasses import dataclass

import anyio

from bench.client import Address

THREADS = 1
GRACE_S = 10.0


@dataclass(frozen=True)
class Round:
    """What one run of wrk counted."""

    requests: int
    seconds: float
    failures: int


async def wrk(address: Address, host: str, *, seconds: float, connections: int) -> Round:
    """Load `host` behind `address` for a whole number of seconds."""
    command = [
        *("wrk", f"-t{THREADS}", f"-c{connections}", f"-d{seconds:.0f}s"),
        *("-H", f"Host: {host}", f"http://{address[0]}:{address[1]}/"),
    ]
    with anyio.fail_after(seconds + GRACE_S):
        done = await anyio.run_process(command)
    return parse(done.stdout.decode())


def parse(text: str) -> Round:
    """Read wrk's report."""
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", text)
    assert total is not None, f"wrk said:\n{text}"
    seconds = float(total[2]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[total[3]]
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    failures = sum(int(number) for number in errors.groups()) if errors else 0
    if wrong := re.search(r"Non-2xx or 3xx responses: (\d+)", text):
        failures += int(wrong[1])
    return Round(int(total[1]), seconds, failures)
