"""Whoever lost sight of the log finds it again, wherever it has moved."""

from pathlib import Path

import pytest

from kythera.distribute import membership
from kythera.distribute.address import LogAddress
from kythera.distribute.core_finder import CoreFinder
from kythera.ground.layout import Layout
from kythera.model.catalog import Catalog
from kythera.model.membership import Membership, Peer
from kythera.model.records import Core, Machine, encode

pytestmark = pytest.mark.anyio
PASSWORD = "p" * 32


def _catalog() -> Catalog:
    catalog = Catalog()
    machines = [Machine(name=name, mesh=f"127.0.0.1:{port}") for port, name in enumerate("abcy", 1)]
    for record in (Core(machines=("a",)), *machines):
        catalog.apply(record.key(), encode(record))
    return catalog


async def test_when_nobody_it_knew_answers_every_other_try_goes_to_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was with a, then with a, b and c, and is with c alone: y was away all the while."""
    layout = Layout(tmp_path)
    membership.write(layout, Membership(founder=False, peers=(Peer(name="a", mesh="127.0.0.1:1"),)))
    monkeypatch.setattr("kythera.distribute.core_finder.fleet_password", lambda _: PASSWORD)
    finder = CoreFinder(layout, "y", _catalog)
    asked: list[str] = []
    for _ in range(6):
        way = finder.find()
        assert isinstance(way, LogAddress)
        asked.append(way.peer)
        finder.failed(way)
    assert asked[0] == "a"
    assert asked.count("a") >= 3, "who is known is not forgotten"
    assert {"b", "c"} <= set(asked)
    way = finder.find()
    assert way is not None
    finder.worked(way)
    assert finder.find() == way, "who answers is kept"
