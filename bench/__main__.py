"""`python -m bench [NAME…] [--json FILE] [--write-docs]`: measure, print a table, write JSON.

The exit code is 0 also when a target is missed: a bench tells, tests refuse.
"""

import argparse
import os
import platform
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec

from bench import (
    clocks,
    cold,
    d1,
    egress,
    failures,
    fleet,
    front,
    kv,
    loops,
    neighbour,
    objects,
    queues,
    r2,
    r2_large,
    records,
    sandbox,
    services,
    thousand,
    zipf,
)
from bench.figures import Figure, Machine, markdown, table

BENCHES: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "front": front.run,
    "cold": cold.run,
    "egress": egress.run,
    "d1": d1.run,
    "clocks": clocks.run,
    "thousand": thousand.run,
    "deploys": failures.deploys,
    "kills": failures.kills,
    "sandbox": sandbox.run,
    "neighbour": neighbour.run,
    "loops": loops.run,
    "queues": queues.run,
    "kv": kv.run,
    "services": services.run,
    "r2": r2.run,
    "objects": objects.run,
}
FLEET_BENCHES: dict[str, Callable[[], Awaitable[list[Figure]]]] = {
    "spread": fleet.spread,
    "rolling": fleet.rolling,
    "death": fleet.death,
    "records": records.run,
    "zipf": zipf.run,
}
"""Run by `make bench-fleet`: five machines on this one, which takes minutes."""
NAMED_BENCHES: dict[str, Callable[[], Awaitable[list[Figure]]]] = {"r2-large": r2_large.run}
"""Run by name alone: they take much time or much of the disk."""
ALL = {**BENCHES, **FLEET_BENCHES, **NAMED_BENCHES}
BENCH_S_MAX = 600.0
HERE = Path(__file__).parent
DOCS = HERE.parent / "docs" / "bench.md"


class Report(msgspec.Struct):
    """A file of results."""

    machine: Machine
    figures: list[Figure]


def this_machine() -> Machine:
    """Read what the kernel says about this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        processor=models[0] if models else "unnamed processor",
        memory_gib=round(memory / 2**30),
        kernel=platform.release().partition("-")[0],
        architecture=platform.machine(),
    )


async def measure(name: str) -> list[Figure]:
    """Run one bench; one that breaks, or takes too long, is a miss with its reason."""
    try:
        with anyio.fail_after(BENCH_S_MAX):
            return await ALL[name]()
    except Exception as error:  # noqa: BLE001 - whatever it was, the other benches go on
        traceback.print_exc()
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Figure(bench=name, name="the whole bench", value=None, note=why)]


def run(names: list[str]) -> list[Figure]:
    """Run benches one after the other and keep each one's results."""
    figures: list[Figure] = []
    for name in names:
        began = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        found = anyio.run(measure, name)
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        write(HERE / "results" / f"{name}.json", found)
        figures += found
    return figures


def write(path: Path, figures: list[Figure]) -> None:
    """Write figures, each with its verdict, and the machine they were taken on."""
    rows = [{**msgspec.structs.asdict(figure), "verdict": figure.verdict} for figure in figures]
    report = {"machine": this_machine(), "figures": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def last_measured() -> list[Figure]:
    """Return the newest figures of all benches that ever ran here."""
    figures: list[Figure] = []
    for name in ALL:
        with suppress(FileNotFoundError):
            raw = (HERE / "results" / f"{name}.json").read_bytes()
            figures += msgspec.json.decode(raw, type=Report).figures
    return figures


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--fleet", action="store_true", help="the benches of a whole fleet")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="write docs/bench.md, with what other benches measured last",
    )
    options = parser.parse_args()
    if unknown := set(options.names) - ALL.keys():
        parser.error(f"no bench is called {', '.join(sorted(unknown))}")
    figures = run(options.names or list(FLEET_BENCHES if options.fleet else BENCHES))
    print("\n" + table(figures))
    misses = sum(figure.verdict == "MISS" for figure in figures)
    print(f"\n{misses} of {sum(bool(f.verdict) for f in figures)} targets missed.")
    if options.json:
        write(options.json, figures)
    if options.write_docs:
        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(markdown(last_measured(), this_machine()))


if __name__ == "__main__":
    main()
