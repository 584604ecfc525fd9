"""The copy that simulated fleets use keeps the contract of the real one."""

import random
from pathlib import Path

import pytest

from kythera.distribute.copy import Copy
from kythera.distribute.log import Entry
from kythera.sim.fleet_copy import FleetCopy

STEPS = 60
KEYS = 6


@pytest.mark.parametrize("seed", range(5))
def test_both_copies_say_the_same_after_every_step(tmp_path: Path, seed: int) -> None:
    """Batches, repeats, tombstones, pruning and snapshots, from a seed."""
    chance = random.Random(seed)  # noqa: S311
    seq = 0
    with Copy(tmp_path / "copy") as real:
        fake = FleetCopy()
        for _ in range(STEPS):
            action = chance.choice(("apply", "apply", "apply", "repeat", "prune", "replace"))
            if action == "prune":
                horizon = chance.randint(0, seq)
                assert real.prune(horizon) == fake.prune(horizon)
            elif action == "replace":
                kept = sorted(fake.rows.values())
                seq += chance.randint(0, 2)
                real.replace(kept, seq)
                fake.replace(kept, seq)
            else:
                begin = max(0, seq - 3) if action == "repeat" else seq
                batch = [_entry(chance, begin + n) for n in range(1, chance.randint(2, 5))]
                seq = max(seq, batch[-1].seq + chance.randint(0, 1))
                assert real.apply(batch, seq) == fake.apply(batch, seq)
            after = chance.randint(0, seq)
            assert real.applied_seq() == fake.applied_seq() == seq
            assert real.changes_after(0) == fake.changes_after(0)
            assert real.batch_after(after, 80) == fake.batch_after(after, 80)
            assert real.changes_since(0, after)[:4] == fake.changes_since(0, after)[:4]
            assert real.get("k1") == fake.get("k1")


def _entry(chance: random.Random, seq: int) -> Entry:
    value = None if chance.random() < 0.3 else b"x" * chance.randint(1, 30)
    return Entry(seq, f"k{chance.randrange(KEYS)}", value)
