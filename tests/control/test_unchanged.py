"""A write that changes nothing is dropped before it reaches the log."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kythera.control.store import end, put
from kythera.model.errors import Conflict
from kythera.model.records import Machine, encode
from tests.control.world import World, world_at

pytestmark = pytest.mark.anyio
ONE = Machine(name="one")
OTHER = Machine(name="one", site="elsewhere")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Return an API whose log holds a machine."""
    async with world_at(tmp_path) as made:
        await made.services.store.write([put(ONE, 0)])
        made.services.store.catalog()
        yield made


async def test_what_is_there_already_is_not_written_again(world: World) -> None:
    """The same record, and the end of one that never was: the log's newest number stays."""
    store = world.services.store
    before = await store.newest()
    await store.write([put(ONE)])
    await store.write([put(ONE), end("machine.none")])
    assert await store.newest() == before
    await store.write([put(OTHER)])
    assert await store.newest() == before + 1


async def test_a_copy_that_is_behind_does_not_hide_a_change(world: World) -> None:
    """Somebody else wrote meanwhile: writing what was there before is a conflict, not a no-op."""
    store = world.services.store
    guard = store.guard_of(ONE.key())
    await world.log.append(OTHER.key(), encode(OTHER))
    with pytest.raises(Conflict):
        await store.write([put(ONE, guard)])
