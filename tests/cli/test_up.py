"""What `kythera up` makes of its words, before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from kythera.cli.command import Here
from kythera.cli.up import parse_limits, resolve
from kythera.ground.layout import Layout
from kythera.model.limits import Limits
from tests.cli.conftest import Run

CHOSEN = {
    "http": "127.0.0.1:0",
    "https": "",
    "api": "127.0.0.1:0",
    "domain": "Example.ORG.",
    "site": "local",
    "region": "",
    "world": "",
    "mesh": "127.0.0.1:0",
    "advertise": "",
    "machine": "here",
    "join": "",
    "tls_certificates": None,
    "secrets_key": None,
    "egress_allow": ("10.0.0.0/8",),
    "s3": "127.0.0.1:9000",
    "r2_endpoint": "",
    "r2_key": None,
    "require_isolation": "strict",
    "limits": ("idle_stop_s=1.5", "modules_max=3"),
}


def test_words_become_the_keepers_options(tmp_path: Path) -> None:
    """Absolute paths, a lower-case domain, the public internet plus what was allowed."""
    options = resolve(Here(Layout(tmp_path), json=True), CHOSEN)
    assert options.state == tmp_path
    assert options.domain == "example.org"
    assert options.egress_allow == ("public", "10.0.0.0/8")
    assert options.s3 == "127.0.0.1:9000"
    assert options.json
    assert options.strict
    assert (options.limits.idle_stop_s, options.limits.modules_max) == (1.5, 3)
    assert options.https == ""


def test_certificates_alone_open_the_https_door(tmp_path: Path) -> None:
    """One option is enough for TLS."""
    chosen = {**CHOSEN, "tls_certificates": tmp_path / "cert.pem"}
    options = resolve(Here(Layout(tmp_path), json=False), chosen)
    assert options.https == "127.0.0.1:8443"
    assert options.tls_certificates == str(tmp_path / "cert.pem")


def test_no_limit_given_means_the_defaults() -> None:
    """Limits have one home."""
    assert parse_limits(()) == Limits()


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("idle_stop=3", "Near it: idle_stop_s"),
        ("modules_max=many", "Expected `int`"),
        ("modules_max", "write it as NAME=VALUE"),
    ],
)
def test_a_wrong_limit_is_a_usage_error(bare: Run, tmp_path: Path, pair: str, says: str) -> None:
    """Exit code 2, and what would be right."""
    ran = bare("up", "--state", str(tmp_path), "--limit", pair)
    assert ran.code == 2
    assert says in ran.err


def test_the_keepers_command_loads_no_loop_and_no_network_library() -> None:
    """It forks: what it does not load need not be copied at a cold start."""
    code = (
        "import sys, kythera.cli.main, kythera.cli.up, kythera.node.keeper;"
        "print([m for m in ('asyncio', 'httpx', 'nats', 'capnp') if m in sys.modules])"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
