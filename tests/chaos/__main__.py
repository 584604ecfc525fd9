"""`python -m tests.chaos [--seed N] [--faults 30] [--minutes 10]`: chaos by hand (`make chaos`)."""

import argparse
import random
import sys
from pathlib import Path

import anyio
import msgspec

from tests.chaos.run import chaos


def main() -> int:
    """Run once; print the verdict; keep the history of a bad one."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--history", type=Path, help="write all that clients saw there")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)  # noqa: T201

    def say(text: str) -> None:
        print(text, flush=True)  # noqa: T201

    verdict = anyio.run(chaos, options.seed, options.faults, options.minutes * 60, say)
    say(verdict.text())
    if options.history:
        history = msgspec.json.encode(verdict.history)
        options.history.write_bytes(msgspec.json.format(history))
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
