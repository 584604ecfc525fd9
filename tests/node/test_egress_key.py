"""The key of cells' tokens: as old as the oldest cell that holds one, and no older."""

from pathlib import Path

from kythera.ground.layout import Layout
from kythera.model.platform import Platform
from kythera.node.egress import egress_door

PLATFORM = Platform(account_id="a" * 32, machine="m")


def test_the_key_is_made_anew_when_no_cell_runs(tmp_path: Path) -> None:
    """Goal: what was signed in an earlier life means nothing; nobody else can read the key."""
    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    first = egress_door(layout, PLATFORM, [])
    assert layout.egress_key.stat().st_mode & 0o777 == 0o600
    assert egress_door(layout, PLATFORM, ["haproxy", "nats"]).key != first.key


def test_the_key_stays_while_a_cell_or_the_egress_cell_runs(tmp_path: Path) -> None:
    """Goal: cells that run hold tokens of it, whichever of the others has crashed."""
    layout = Layout(tmp_path)
    layout.run.mkdir(parents=True)
    first = egress_door(layout, PLATFORM, [])
    assert egress_door(layout, PLATFORM, ["egress"]).key == first.key
    assert egress_door(layout, PLATFORM, ["cell/a/hello/v/1"]).key == first.key
