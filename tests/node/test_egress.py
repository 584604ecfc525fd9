"""What the corpus of tests/hostile/egress tries: nothing that is not public is ever reached."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.node.egress_namespace import faults, outside, workers
from tests.node.tls_servers import STARTTLS, TLS
from tests.platforms import ROOT

pytestmark = pytest.mark.real
CORPUS_S_MAX = 240


def in_a_world_of_its_own(**settings: Any) -> dict[str, Any]:
    """Run the corpus in namespaces that have loopback alone."""
    here = outside(sys.executable, "-m", "tests.node.egress_namespace", json.dumps(settings))
    done = subprocess.run(
        here, cwd=ROOT, capture_output=True, text=True, timeout=CORPUS_S_MAX, check=False
    )
    if "unshare failed" in done.stderr:
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def corpus() -> dict[str, Any]:
    """Return what became of each worker."""
    return in_a_world_of_its_own()


@pytest.mark.parametrize("worker", [path.stem for path in workers()])
def test_nothing_that_is_not_public_is_reached(corpus: dict[str, Any], worker: str) -> None:
    """Goal: each attempt is refused and nothing arrives at a listener that must hear nothing; what
    may be reached is."""
    assert faults(corpus[worker]) == []


def test_each_worker_says_what_it_tries() -> None:
    """Goal: the corpus can be read."""
    for path in workers():
        first, second, *_ = path.read_text(encoding="utf-8").splitlines()
        assert first.startswith("// tries: "), path
        assert second.startswith("// seen: "), path


def test_the_checker_sees_a_hole() -> None:
    """Goal: were loopback open, as an operator can have it, the same worker would show it."""
    found = in_a_world_of_its_own(only="loopback", allow=["public", "127.0.0.0/8"])["loopback"]
    assert any(fault.startswith("arrived at 127.0.0.1") for fault in faults(found))
    assert any("was reached" in fault for fault in faults(found))


def test_the_checker_sees_silence() -> None:
    """Goal: a worker that tries nothing, or does not answer, has shown nothing."""
    assert faults({"status": 200, "body": "[]", "arrived": []}) == ["the worker tried nothing"]
    assert faults({"status": 500, "body": "", "arrived": []}) != []


def test_refusals_are_counted_by_worker_and_reason(corpus: dict[str, Any]) -> None:
    """Goal: an operator sees who knocks where."""
    refused = {found["worker"]: found["refused"] for found in corpus["counters"]["workers"]}
    assert set(refused["mapped"]) == {"embedded"}
    assert set(refused["names"]) == {"resolved_address"}
    assert set(refused["hosts-listed"]) == {"host_not_listed"}
    assert set(refused["rebinding"]) == {"resolved_address"}
    assert {"loopback", "private", "metadata", "link_local", "shared", "reserved"} < set(
        refused["private"]
    )
    assert corpus["counters"]["open"] == 0


def test_the_worker_is_told_why(corpus: dict[str, Any]) -> None:
    """Goal: a refusal is an error with a sentence, and a line of the worker's own console."""
    told = {what: said for what, _, said in json.loads(corpus["private"]["body"])}
    assert told["10.0.0.1"] == "Outbound fetch failed: 10.0.0.1 is a private address."
    assert "outbound fetch failed: 10.0.0.1 is a private address" in corpus["private"]["console"]
    none = json.loads(corpus["none-at-all"]["body"])[0][2]
    assert none == 'Outbound fetch failed: kythera.egress of this worker is "none".'


NAMED, EXPIRED = "its certificate is for another name than", "its certificate has expired"
UNTRUSTED = "its certificate is self-signed or of an authority that is not trusted"
WHY = {
    "wrong": f"{NAMED} public.test",
    "expired": EXPIRED,
    "self": UNTRUSTED,
    "unknown": UNTRUSTED,
}


@pytest.mark.parametrize("kind", WHY)
def test_a_certificate_that_is_not_good_is_refused_by_its_reason(
    corpus: dict[str, Any], kind: str
) -> None:
    """Goal: `secureTransport`, `startTls` and `node:tls` check certificates, and the socket's own
    error (`opened`, `closed`, what is read) says what was wrong."""
    told = {what: said for what, _, said in json.loads(corpus["tls-certificates"]["body"])}
    for way in ("on", "opened", "closed", "node"):
        port = TLS[kind]
        said = f"Outbound connect failed: TLS with public.test:{port} failed: {WHY[kind]}."
        assert told[f"{way} {kind}"] == said
    for way in ("starttls", "node starttls"):
        port = STARTTLS[kind]
        said = f"Outbound startTls failed: TLS with public.test:{port} failed: {WHY[kind]}."
        assert told[f"{way} {kind}"] == said
    assert f"TLS with public.test:{TLS[kind]} failed" in corpus["tls-certificates"]["console"]


def test_tls_in_the_middle_is_what_was_said_after_it(corpus: dict[str, Any]) -> None:
    """Goal: another name may be expected; what somebody puts into the clear beginning is not taken
    for what is said under TLS."""
    told = {what: said for what, _, said in json.loads(corpus["tls-certificates"]["body"])}
    for what in ("starttls", "starttls of a name", "pushed in clear"):
        assert told[f"must: {what}"] == "S echo hello true,starttls,false,on"
    other = f"TLS with other.test:{STARTTLS['good']} failed: {NAMED} other.test."
    assert told["starttls of another name"] == f"Outbound startTls failed: {other}"


def test_tls_is_counted_as_all_else_is(corpus: dict[str, Any]) -> None:
    """Goal: bytes, failures by reason, and no connection that stays."""
    found = {one["worker"]: one for one in corpus["counters"]["workers"]}
    counted = found["tls-certificates"]
    assert counted["failed"] == {"tls": 26, "name_not_found": 1, "unreachable": 1}
    assert counted["bytes_in"] > 9 * len("echo hello")
    assert counted["bytes_out"] > 9 * len("hello")
    assert {"loopback", "private", "metadata", "resolved_address"} < set(found["tls"]["refused"])
