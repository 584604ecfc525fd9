"""Run worlds: `python -m kythera.sim --seeds 1000`, or replay one: `--seed 17`, `--fleet --seed 17`.

A seed makes a world of one machine and a world of a whole fleet; `--fleet` or `--machine` runs one
kind alone.
"""

import argparse
import logging
import sys
from collections.abc import Callable

import structlog

from kythera.sim.fleet_world import FleetWorld
from kythera.sim.world import Violation, World

PROGRESS_EVERY = 100


def main(argv: list[str] | None = None) -> int:
    """Run the asked-for worlds; print each violation; exit 1 when there was one."""
    parser = argparse.ArgumentParser(prog="kythera.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds (default 500)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="replay this one world")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--fleet", action="store_true", help="only fleets")
    kind.add_argument("--machine", action="store_true", help="only single machines")
    options = parser.parse_args(argv)
    last = options.first + options.seeds
    seeds = range(options.first, last) if options.seed is None else [options.seed]
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    broken = 0
    if not options.fleet:
        broken += run_worlds("machine", seeds, lambda seed: World(seed).run())
    if not options.machine:
        broken += run_worlds("fleet", seeds, lambda seed: FleetWorld(seed).run())
    return 1 if broken else 0


def run_worlds(kind: str, seeds: range | list[int], run: Callable[[int], None]) -> int:
    """Run worlds of one kind and return how many broke a promise."""
    broken = 0
    for done, seed in enumerate(seeds, start=1):
        try:
            run(seed)
        except Violation as violation:
            broken += 1
            sys.stdout.write(f"{violation}\n")
        if done % PROGRESS_EVERY == 0:
            sys.stderr.write(f"{done} worlds ({kind}), {broken} broken\n")
    sys.stdout.write(f"{len(seeds)} worlds ({kind}), {broken} broken\n")
    return broken


if __name__ == "__main__":
    sys.exit(main())
