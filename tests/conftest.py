"""Fixtures that all tests share, and the neighbourhood watch: each test leaves no descriptor and
no process behind."""

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.platforms import RunningPlatform, running
from tests.processes import alive, births, children, descriptors, wait_until
from tests.wranglers import VERSIONS, Wrangler

LEAK_S_MAX = 3.0
"""What is being closed may need this long; what is still open then was forgotten."""

DESCRIPTORS_MAX = 65_536
"""Of a test's process: a login has 1,024 to begin with, and a test may be a thousand visitors."""
_, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(_hard, DESCRIPTORS_MAX), _hard))

settings.register_profile("here", deadline=None, derandomize="EXPLORE" not in os.environ)
settings.load_profile("here")


LONG_FIRST = (
    "tests/chaos/",
    "tests/story/test_key_rotation.py",
    "tests/story/test_documentation.py",
    "tests/hostile/",
    "tests/story/",
)
"""What lasts longest begins first, so that no process waits at the end for one that has just begun."""


BOTH = ("test_wrangler_deploy.py", "test_wrangler_set1.py")
"""Stories that are always told with both wranglers: all that deploys. The others are told with the newer one, or
with both (`WRANGLERS=all make test`), which takes minutes more."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order whole files; within a file all stays as it is written. Leave out what is told twice."""
    if os.environ.get("WRANGLERS") != "all":
        twice = [item for item in items if _is_told_twice(item)]
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in twice]

    def place(item: pytest.Item) -> int:
        starts = (n for n, start in enumerate(LONG_FIRST) if item.nodeid.startswith(start))
        return next(starts, len(LONG_FIRST))

    items.sort(key=place)


def _is_told_twice(item: pytest.Item) -> bool:
    given = getattr(item, "callspec", None)
    older = given is not None and given.params.get("wrangler") in VERSIONS[:-1]
    return older and item.path.name not in BOTH


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests where the product runs: on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Fail a test that forgets a descriptor or a child process."""
    open_before = set(descriptors().items())
    children_before = births(children(os.getpid()))
    yield

    def leaks() -> list[str]:
        left = births(children(os.getpid()))
        strangers = {p: born for p, born in left.items() if children_before.get(p) != born}
        fresh = set(descriptors().items()) - open_before
        return [*alive(strangers), *(f"{fd} -> {target}" for fd, target in sorted(fresh))]

    if leaks():
        gc.collect()
        wait_until(lambda: not leaks(), f"left behind: {leaks()}", deadline_s=LEAK_S_MAX)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPlatform]:
    """Return the platform that tests share; each uses workers of its own."""
    with running(tmp_path_factory.mktemp("platform") / "state") as started:
        yield started


@pytest.fixture(params=VERSIONS, scope="session")
def wrangler(
    request: pytest.FixtureRequest,
    platform: RunningPlatform,
    tmp_path_factory: pytest.TempPathFactory,
) -> Wrangler:
    """Return each pinned wrangler in turn, pointed at the shared platform."""
    version: str = request.param
    return Wrangler(version, platform, tmp_path_factory.mktemp(f"home-{version}"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return where a test's own platform may keep its state."""
    return tmp_path / "state"
