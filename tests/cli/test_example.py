"""The example that `make up` deploys: on an empty platform, and on no other."""

import os
from pathlib import Path

import kythera
from kythera.cli.example import serve
from kythera.ground.layout import Layout
from tests.cli.fake_api import FakeApi

HELLO = Path(kythera.__file__).parents[2] / "examples" / "hello"
URL = "http://hello.localhost:8080/"


def served(layout: Layout) -> str | None:
    """Run the deployer with this very process as the keeper."""
    keeper = os.pidfd_open(os.getpid())
    try:
        return serve(layout, keeper, HELLO)
    finally:
        os.close(keeper)


def test_an_empty_platform_gets_the_example(layout: Layout, api: FakeApi) -> None:
    """One upload, and where it is served."""
    assert served(layout) == URL
    api.asked("PUT", "/workers/scripts/hello")


def test_an_example_deployed_before_is_only_told(layout: Layout, api: FakeApi) -> None:
    """A restart changes nothing."""
    api.workers = {name: {"id": name} for name in ("hello", "other")}
    assert served(layout) == URL
    assert not [call for call in api.calls if call.method != "GET"]


def test_a_platform_with_other_workers_is_left_alone(layout: Layout, api: FakeApi) -> None:
    """It is somebody's own by now."""
    api.workers = {"other": {"id": "other"}}
    assert served(layout) is None
    assert not [call for call in api.calls if call.method != "GET"]


def test_the_deployer_ends_with_the_keeper(tmp_path: Path) -> None:
    """No API will ever answer once the keeper has ended."""
    pid = os.posix_spawn("/bin/true", ["true"], {})
    keeper = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    try:
        assert serve(Layout(tmp_path), keeper, HELLO) is None
    finally:
        os.close(keeper)
