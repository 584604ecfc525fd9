"""Durable Objects in a cell's configuration, and what an object cell's next step is."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict

from kythera.model.objects import ObjectClass
from kythera.model.records import Binding
from kythera.run.config import CellSettings
from kythera.run.object_cells import Asked, key_of, name_of, next_step
from kythera.run.objects import ObjectHome, ObjectsDoor
from tests.run.test_config import MAIN, configured, worker_of

KEY = "0" * 32
NS = Binding(
    name="NS",
    type="durable_object_namespace",
    fields={"class_name": "Shop", "namespace_id": KEY},
)
ASKED = Asked("v1", "mark", (KEY,))


def test_a_stateless_cell_has_shells_with_the_real_keys() -> None:
    """Goal: ids are the same as in the object cell, and nothing is stored here."""
    settings = CellSettings(objects={"hello": ObjectsDoor(Path("/o.sock"))})
    config = configured(MAIN, settings, bindings=(NS,))
    shells = worker_of(config, "objects/of/hello")
    assert shells["durableObjectNamespaces"][0]["uniqueKey"] == KEY
    assert "inMemory" in shells["durableObjectStorage"]
    assert f'as "{KEY}"' in shells["modules"][0]["esModule"]
    way = next(s for s in config["services"] if s["name"] == "objects/way/hello")
    assert way["external"]["address"] == "unix:/o.sock"
    assert (
        "durableObjectNamespaces" not in worker_of(config)
        or not worker_of(config)["durableObjectNamespaces"]
    )


def test_what_cannot_be_reached_says_why() -> None:
    """Goal: a cell on another machine, or a trial, starts; a call throws the reason."""
    settings = CellSettings(objects={"hello": ObjectsDoor(why="far away")})
    config = configured(MAIN, settings, bindings=(NS,))
    shells = worker_of(config, "objects/of/hello")
    assert [b["text"] for b in shells["bindings"]] == ["far away"]
    assert not any(s["name"].startswith("objects/way") for s in config["services"])


def test_the_object_cell_has_the_real_ones() -> None:
    """Goal: the same code, under the names that this version has for its classes."""
    one = ObjectClass(worker="hello", class_name="Newer", id=KEY, sqlite=True, machine="")
    settings = CellSettings(home=ObjectHome((("Shop", one),), Path("/objects")))
    config = configured(MAIN, settings, bindings=(NS,))
    worker = worker_of(config)
    namespace = worker["durableObjectNamespaces"][0]
    assert (namespace["className"], namespace["uniqueKey"], namespace["enableSql"]) == (
        "Shop",
        KEY,
        True,
    )
    assert worker["bindings"][0]["durableObjectNamespace"]["className"] == "Shop"
    assert [s["name"] for s in config["sockets"]] == ["http", "objects-watch", "pulse"]
    assert config["sockets"][0]["http"]["capnpConnectHost"]


def test_an_object_cell_takes_its_traces_itself() -> None:
    """Goal: a tail that begins needs no other configuration, so no other process. Method: the door
    takes them, and its exceptions are still told on the console of a cell that nobody watches."""
    one = ObjectClass(worker="hello", class_name="Newer", id=KEY, sqlite=True, machine="")
    home = ObjectHome((("Shop", one),), Path("/objects"))
    settings = CellSettings(home=home, tail_url_socket=Path("/tail.sock"))
    config = configured(MAIN, settings, bindings=(NS,))
    (tail,) = worker_of(config)["tails"]
    assert (tail["name"], tail["entrypoint"]) == ("objects/door", "Tail")
    sink = next(s for s in config["services"] if s["name"] == "tail-sink")
    assert sink["external"]["address"] == "unix:/tail.sock"
    assert {b["name"] for b in worker_of(config, "objects/door")["bindings"]} >= {"SINK", "ABOUT"}
    assert not any(s["name"] == "tail" for s in config["services"])


def test_one_step_leads_to_the_next() -> None:
    """Goal: what runs and is not asked for is stopped before anything is started."""
    assert next_step(ASKED, None) == "start"
    assert next_step(ASKED, asdict(ASKED)) == "rest"
    assert next_step(None, asdict(ASKED)) == "stop"
    assert next_step(None, None) == "end"


@given(st.lists(st.sampled_from(["v1", "v2", None]), max_size=20))
def test_never_two_at_once(versions: list[str | None]) -> None:
    """Goal: whatever is asked for in between, a start follows only an end."""
    running: Asked | None = None
    for version in versions:
        asked = None if version is None else Asked(version, "mark", (KEY,))
        for _ in range(3):
            step = next_step(asked, None if running is None else asdict(running))
            assert step != "start" or running is None
            running = {"start": asked, "stop": None}.get(step, running)
        assert running == asked


def test_a_way_that_has_changed_is_another_configuration() -> None:
    """Goal: an object cell whose code is bound to a class that has moved is started anew, others not."""
    as_before = {k: v for k, v in asdict(ASKED).items() if k != "ways"}
    assert next_step(ASKED, as_before) == "rest"
    moved = Asked("v1", "mark", (KEY,), ways=(f"{KEY} taker",))
    assert next_step(moved, asdict(ASKED)) == "stop"
    assert next_step(moved, {**asdict(moved), "ways": [f"{KEY} taker"]}) == "rest"


def test_names_are_read_back() -> None:
    """Goal: an agent that begins anew knows whose object cell it finds."""
    assert key_of(name_of(("a", "shop"))) == ("a", "shop")
    assert key_of("cell/a/shop/v/1+1") is None
