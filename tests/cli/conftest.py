"""A platform made of a fake API, and the command line run against it in this process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kythera.cli.main import main
from kythera.ground.layout import Layout
from tests.cli.fake_api import FakeApi, serving


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def api() -> FakeApi:
    """Return a platform without workers."""
    return FakeApi()


@pytest.fixture
def layout(api: FakeApi, tmp_path: Path) -> Iterator[Layout]:
    """Serve the fake API for one test."""
    with serving(api, tmp_path / "state") as made:
        yield made


@pytest.fixture
def bare(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `kythera` with these words."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def run(bare: Run, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs `kythera` against the fake platform."""
    monkeypatch.setenv("KYTHERA_STATE", str(layout.state))
    return bare
