"""The files: golden, whole, and safe against what people name things."""

import json
import os
import re
from pathlib import Path

import pytest

from kythera.ground.layout import RUN_PATH_BYTES_MAX
from kythera.model.limits import Limits
from kythera.route.mesh import MeshFiles, PeerServer, Tunnel
from kythera.route.pages import CONTENT_TYPES, PAGES, page_rows
from kythera.route.plan import FrontPlan, Server
from kythera.route.render import FrontOptions, ray_suffix, render_front
from kythera.route.rules import quoted

GOLDEN = Path(__file__).with_name("golden")
"""`GOLDEN_WRITE=1 pytest tests/route/test_render.py` writes the files anew, to be read in a diff."""
SOCKET_BYTES_MAX = 97
"""HAProxy's own limit for a unix socket's path."""
LINE_BYTES_MAX = 2048
"""HAProxy's own limit for a line of its configuration."""


def small_plan() -> FrontPlan:
    """Return a plan with a bit of everything."""
    maps = {
        "hosts": {"a.example.com": "r:s0001", "hello.localhost": "s0001"},
        "routes_exact": {"https://a.example.com/cart": "s0002"},
        "routes_prefix": {"http://a.example.com/shop/": "s0002"},
        "routes_wild": {r"^https?://[^/]*\.example\.com/": "s0002"},
        "pins": {'s0001/hello="v1"': "c1", 's0001/hello="v2"': "c2"},
        "sticky": {"s0001/1": "c2", "s0001/10": "c1"},
        "apart": {"s0002": "local|a/shop|exit 1"},
        "members": {"far": "1", "me": "1", "near": "1"},
        "health": {"draining": "1"},
        "queues": {"s0002": "20"},
        "services": {"0a": "s0001", "0b": "s0002"},
        "lanes": {"0a": "0:1,1:9"},
        "lane_servers": {"0a-0": "c1", "0a-1": "c2"},
        "ways": {"0c": "near|d1|pass", "0d": "far|o1|"},
        "data": {"d1": "d1"},
    }
    servers = (
        Server(name="c1", path="/run/a b/c1.sock", weight=1),
        Server(name="c2", path="/run/a b/c2.sock", weight=9),
    )
    return FrontPlan(
        slots=2,
        owners={"s0001": "a/hello"},
        servers={
            "s0001": servers,
            "data": (Server(name="d1", path="/run/a b/d1.sock", weight=0),),
        },
        maps=maps,
        me="me",
        number=5,
        peers=(
            PeerServer(name="near", number=7, address="10.0.0.2:7000", near=0),
            PeerServer(name="far", number=6, address="[2001:db8::1]:7000", near=2),
        ),
        tunnels=(
            Tunnel(
                name="nats-far",
                listen="127.0.0.1:6223",
                peer="far",
                address="[2001:db8::1]:7000",
                service="route",
            ),
        ),
    )


MESH = MeshFiles(
    certificate="/var/k y/machine.pem",
    authority="/var/k y/ca.pem",
    control_socket="/var/k y/run/mesh.sock",
    streams={"log": "127.0.0.1:4222", "route": "127.0.0.1:6222"},
    pass_key="not a key",
)


def test_the_files_are_the_golden_ones() -> None:
    """Any change of what HAProxy reads is seen in review."""
    options = FrontOptions(tls_certificates="/etc/tls/site.pem", mesh=MESH, services=True)
    files = render_front(small_plan(), options, Path("/run/haproxy.sock"))
    if os.environ.get("GOLDEN_WRITE"):
        GOLDEN.mkdir(exist_ok=True)
        for name, content in files.items():
            (GOLDEN / name).write_bytes(content)
    assert files == {path.name: path.read_bytes() for path in GOLDEN.iterdir()}


def test_every_line_is_one_that_haproxy_can_read() -> None:
    """Lines have a limit, however the site is called."""
    options = FrontOptions(site='s"i%[t]\\e $HOME ä\n', tls_certificates="/a b/$x")
    files = render_front(small_plan(), options, Path("/run/a b.sock"))
    assert max(len(line) for line in files["haproxy.cfg"].splitlines()) < LINE_BYTES_MAX
    assert all(len(content) for name, content in files.items() if name.startswith("page"))


def test_equal_plans_give_equal_files_and_no_plan_names_its_folder() -> None:
    """Maps are named by the folder HAProxy changes to."""
    first, second = (
        render_front(small_plan(), FrontOptions(), Path("/run/haproxy.sock")) for _ in range(2)
    )
    assert first == second


def test_every_page_has_all_forms_and_one_place_for_the_ray_id() -> None:
    """Pages are one line each; JSON stays JSON around the ray id."""
    heads, tails = page_rows()
    assert heads.keys() == tails.keys()
    assert len(heads) == len(PAGES) * len(CONTENT_TYPES)
    for key, head in heads.items():
        whole = head + "0123456789abcdef-local" + tails[key]
        assert "\n" not in whole
        assert "RAY" not in whole
        # HAProxy trims the ends of a map's values.
        assert head == head.strip()
        assert tails[key] == tails[key].strip()
        if key.startswith("json/"):
            assert json.loads(whole)["ray_id"] == "0123456789abcdef-local"


@pytest.mark.parametrize(
    ("descriptors", "slots", "connections"),
    [(20_000, 64, 8_521), (1_024, 64, 100), (1_000_000, 1024, 200_000)],
)
def test_connections_follow_from_descriptors(
    descriptors: int, slots: int, connections: int
) -> None:
    """Two descriptors for each client, some to spare, and a floor."""
    options = FrontOptions(descriptors_max=descriptors)
    assert options.connections_max(slots) == connections


def test_limits_reach_the_configuration() -> None:
    """Each time-out is the limit of that name."""
    limits = Limits(
        client_idle_s=11,
        request_head_s=12,
        keep_alive_s=13,
        tunnel_idle_s=14,
        response_wait_s=15,
        front_hard_stop_s=16,
        retry_after_s=17,
    )
    files = render_front(FrontPlan(), FrontOptions(limits=limits), Path("/s"))
    text = files["haproxy.cfg"].decode()
    for line in (
        "timeout client 11s",
        "timeout http-request 12s",
        "timeout http-keep-alive 13s",
        "timeout tunnel 14s",
        "timeout server 15s",
        "hard-stop-after 16s",
        "hdr Retry-After 17",
    ):
        assert line in text


def test_words_are_quoted_for_the_configuration() -> None:
    """Quotes, dollars and backslashes in a path stay what they are."""
    assert quoted('a "b" $c \\d') == '"a \\"b\\" \\$c \\\\d"'
    assert ray_suffix("my site-1") == "mysite1"
    assert ray_suffix("ä") == "local"


def test_each_socket_fits_in_the_longest_folder_that_a_platform_may_have() -> None:
    """Goal: no state folder is of just the length that HAProxy refuses."""
    names = set()
    for file in GOLDEN.iterdir():
        names |= set(re.findall(r"/run(/[^/\"]+\.sock)", file.read_text(encoding="utf-8")))
    assert "/haproxy-services-relay.sock" in names
    longest = max(map(len, names))
    assert RUN_PATH_BYTES_MAX + longest <= SOCKET_BYTES_MAX
