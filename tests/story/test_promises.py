"""What a visitor and an owner may count on, end to end, on a platform of one's own.

Method: the real platform, real requests through the front door, and what the machine says.
"""

import json
import random
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.platforms import RunningPlatform, running
from tests.processes import wait_until

pytestmark = pytest.mark.story

MIB = 1024 * 1024
BODY_BYTES = 1024 * MIB
MEMORY_GROWTH_BYTES_MAX = 160 * MIB
"""The slack of the cell's own garbage collection; the body is many times larger."""
SINK = """
export default { async fetch(request) {
  let bytes = 0;
  for await (const chunk of request.body) bytes += chunk.byteLength;
  return new Response(String(bytes));
} };
"""
SOURCE = """
export default { fetch() {
  const chunk = new Uint8Array(1048576);
  let left = 1024;
  return new Response(new ReadableStream({ pull(controller) {
    if (left-- === 0) return controller.close();
    controller.enqueue(chunk);
  } }));
} };
"""
BURN = """
export default { fetch() {
  let x = 0;
  for (let i = 0; i < 2e8; i++) x += i % 7;
  return new Response(String(x));
} };
"""


def says(text: str) -> str:
    """Return a worker that answers this."""
    return f"export default {{ fetch() {{ return new Response({json.dumps(text)}) }} }}"


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningPlatform]:
    """Return a platform that this test alone uses, with the limits it asks for."""
    limits = [word for limit in getattr(request, "param", ()) for word in ("--limit", limit)]
    with running(tmp_path / "state", *limits) as started:
        yield started


def cell_of(platform: RunningPlatform, worker: str) -> dict[str, Any]:
    """Return a worker's one serving cell."""
    (cell,) = [
        cell
        for cell in platform.status()["cells"]
        if cell["worker"] == worker and cell["state"] != "draining"
    ]
    return dict(cell)


def test_the_records_alone_bring_everything_back(tmp_path: Path) -> None:
    """Without its copy, HAProxy's files and asset trees a machine comes to the same state."""
    state = tmp_path / "state"
    with running(state) as first:
        for name in ("one", "two"):
            first.upload(name, says(name))
            first.wait_for(name, name)
    for derived in ("copy", "haproxy", "assets"):
        shutil.rmtree(state / derived, ignore_errors=True)
    with running(state) as second:
        for name in ("one", "two"):
            assert second.get(name).text == name


def test_a_gigabyte_passes_both_ways_without_filling_memory(own: RunningPlatform) -> None:
    """Bodies stream through HAProxy and the cell; neither holds them."""
    own.upload("sink", SINK)
    own.upload("source", SOURCE)
    assert own.fetch("http://sink.localhost/", "POST", content=b"x").text == "1"
    before = cell_of(own, "sink")["private_bytes"]
    host, port = urlsplit(own.http).hostname, urlsplit(own.http).port
    with socket.create_connection((host, port), timeout=60) as peer:
        head = f"POST / HTTP/1.1\r\nHost: sink.localhost\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        peer.sendall(head.encode())
        piece = bytes(MIB)
        for _ in range(BODY_BYTES // MIB):
            peer.sendall(piece)
        answer = peer.recv(65_536)
    assert answer.endswith(str(BODY_BYTES).encode()), answer
    grown = cell_of(own, "sink")["private_bytes"] - before
    assert grown < MEMORY_GROWTH_BYTES_MAX, grown
    received = 0
    with socket.create_connection((host, port), timeout=60) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\nHost: source.localhost\r\n\r\n")
        while chunk := peer.recv(MIB):
            received += len(chunk)
    assert BODY_BYTES < received < BODY_BYTES + MIB
    assert cell_of(own, "source")["private_bytes"] < MEMORY_GROWTH_BYTES_MAX


def test_percentages_hold_keys_stick_and_overrides_are_obeyed(own: RunningPlatform) -> None:
    """Two versions share a worker as the deployment says."""
    own.upload("split", says("old"))
    own.upload("split", says("new"))
    items = own.call("GET", "/workers/scripts/split/versions").json()["result"]["items"]
    new, old = items[0]["id"], items[1]["id"]
    shares = [
        {"version_id": new, "percentage": 25},
        {"version_id": old, "percentage": 75},
    ]
    plan = {"strategy": "percentage", "versions": shares}
    done = own.call("POST", "/workers/scripts/split/deployments", json=plan)
    assert done.status_code == 200, done.text
    wait_until(lambda: {own.get("split").text for _ in range(12)} == {"old", "new"}, "both serve")
    seen = Counter(own.get("split").text for _ in range(200))
    assert 30 <= seen["new"] <= 70, seen
    for key in ("ann", "bob", "cy", "dee"):
        stuck = {
            own.get("split", headers={"Cloudflare-Workers-Version-Key": key}).text
            for _ in range(10)
        }
        assert len(stuck) == 1, (key, stuck)
    for version, text in ((new, "new"), (old, "old")):
        header = {"Cloudflare-Workers-Version-Overrides": f'split="{version}"'}
        assert {own.get("split", headers=header).text for _ in range(8)} == {text}


def test_a_secret_rests_sealed_and_reaches_only_the_worker(own: RunningPlatform) -> None:
    """No file of the state folder, no log and no answer of the API holds its text."""
    planted = "planted-8c1f0e7b-secret-text"
    binding = {"name": "KEY", "type": "secret_text", "text": planted}
    code = "export default { fetch(r, env) { return new Response(env.KEY) } }"
    own.upload("vault", code, bindings=[binding])
    own.wait_for("vault", planted)
    for path in ("/workers/scripts/vault/settings", "/workers/scripts/vault/versions"):
        assert planted not in own.call("GET", path).text
    assert planted not in own.log.read_text(errors="replace")
    for file in (path for path in own.state.rglob("*") if path.is_file()):
        assert planted.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("own", [("saturated_cpu_share=0.1",)], indirect=True)
def test_a_saturated_cell_gets_a_second_process_and_nobody_notices(own: RunningPlatform) -> None:
    """Lasting CPU use adds a process on the same socket; requests go on (the threshold is low
    here, for the test shares two cores with its visitors and with other tests)."""
    own.upload("burn", BURN)
    expected = own.get("burn").text
    end = threading.Event()
    wrong: list[str] = []

    def ask() -> None:
        while not end.is_set():
            text = own.get("burn").text
            if text != expected:
                wrong.append(text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(cell_of(own, "burn")["pids"]) == 2, "two processes", deadline_s=60)
    finally:
        end.set()
        for thread in threads:
            thread.join(30)
    assert not wrong


def test_a_worker_whose_process_does_not_start_is_503_until_it_does(tmp_path: Path) -> None:
    """Retry-After at once instead of a wait; when the cause is gone it serves without help."""
    state = tmp_path / "state"
    with running(state, "--limit", "idle_stop_s=1") as platform:
        platform.upload("lost", says("found"))
        platform.wait_for("lost", "found")
        wait_until(lambda: cell_of(platform, "lost")["state"] == "idle", "idle", deadline_s=20)
        blobs = state / "blobs"
        blobs.rename(state / "elsewhere")
        blobs.mkdir()
        answer = platform.get("lost")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["CF-Ray"] in answer.text
        assert cell_of(platform, "lost")["state"] == "failed"
        blobs.rename(state / "broken")
        (state / "elsewhere").rename(blobs)
        wait_until(lambda: platform.get("lost").text == "found", "it serves", deadline_s=40)


def test_the_log_may_die_and_visitors_do_not_notice(own: RunningPlatform) -> None:
    """Serving needs the copy alone; writing works again when nats-server is back."""
    own.upload("calm", says("calm"))
    own.wait_for("calm", "calm")
    found = subprocess.run(
        ["pgrep", "-f", str(own.state / "nats")], capture_output=True, text=True, check=True
    )
    subprocess.run(["kill", "-9", *found.stdout.split()], check=True)
    assert {own.get("calm").text for _ in range(50)} == {"calm"}
    own.upload("calm", says("calmer"))
    own.wait_for("calm", "calmer")


def test_the_request_knows_what_we_know_of_it(own: RunningPlatform) -> None:
    """`request.cf` and the address are ours; what the client claims is not believed."""
    code = """export default { fetch(r) { return Response.json(
      { cf: r.cf, ip: r.headers.get("cf-connecting-ip"), ray: r.headers.get("cf-ray") }) } }"""
    own.upload("mirror", code)
    forged = {"CF-Blob": '{"colo":"MARS"}', "CF-Connecting-IP": "6.6.6.6", "CF-Ray": "forged"}
    answer = own.get("mirror", headers=forged)
    told = answer.json()
    assert told["cf"]["colo"] == "local"
    assert told["cf"]["httpProtocol"] == "HTTP/1.1"
    assert told["ip"] == "127.0.0.1"
    assert told["ray"] == answer.headers["CF-Ray"] != "forged"


def certificate(folder: Path) -> Path:
    """Write a certificate for secure.localhost and its key; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "secure.localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("secure.localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = folder / "door.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return file


def unshared_port() -> int:
    """Return a free port that the kernel gives to nobody else meanwhile: below those it deals out."""
    for port in random.sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("100 ports are taken")


def test_a_configured_certificate_opens_a_door_with_tls_and_http_2(tmp_path: Path) -> None:
    """Client: curl. It speaks HTTP/2 over TLS, and the worker is told so."""
    pem = certificate(tmp_path)
    port = unshared_port()
    doors = ("--https", f"127.0.0.1:{port}", "--tls-certificates", str(pem))
    with running(tmp_path / "state", *doors) as platform:
        code = "export default { fetch(r) { return Response.json({cf: r.cf, url: r.url}) } }"
        platform.upload("secure", code)
        curl = ["curl", "-sS", "--http2", "--cacert", str(pem), "-w", "\n%{http_version}"]
        where = f"https://secure.localhost:{port}/x"
        done = subprocess.run([*curl, where], capture_output=True, text=True, check=True)
        body, _, version = done.stdout.rpartition("\n")
        told = json.loads(body)
        assert version == "2"
        assert told["cf"]["httpProtocol"] == "HTTP/2"
        assert told["cf"]["tlsVersion"].startswith("TLSv1.")
        assert told["url"].startswith("https://secure.localhost")
