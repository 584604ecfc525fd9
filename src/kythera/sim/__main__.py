"""Run worlds: `python -m kythera.sim --seeds 1000`, or replay one: `--seed 17`."""

import argparse
import sys

from kythera.sim.world import Violation, World

PROGRESS_EVERY = 100


def main(argv: list[str] | None = None) -> int:
    """Run the asked-for worlds; print each violation; exit 1 when there was one."""
    parser = argparse.ArgumentParser(prog="kythera.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds (default 500)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="replay this one world")
    options = parser.parse_args(argv)
    last = options.first + options.seeds
    seeds = range(options.first, last) if options.seed is None else [options.seed]
    broken = 0
    for done, seed in enumerate(seeds, start=1):
        try:
            World(seed).run()
        except Violation as violation:
            broken += 1
            sys.stdout.write(f"{violation}\n")
        if done % PROGRESS_EVERY == 0:
            sys.stderr.write(f"{done} worlds, {broken} broken\n")
    sys.stdout.write(f"{len(seeds)} worlds, {broken} broken\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
