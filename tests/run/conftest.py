"""Fixtures of the tests about cells."""

from pathlib import Path

import pytest

from tests.run.starting import Workshop


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """Return an empty folder to make versions and cells in."""
    return Workshop(tmp_path)
