"""A world for each test of the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.control.world import World, errors_in, world_at


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Return a platform's API in this process; it must end without unexpected failures."""
    async with world_at(tmp_path) as made:
        yield made
        assert list(errors_in(made)) == []
