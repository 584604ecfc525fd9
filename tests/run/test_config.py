"""A version's configuration, read back: names and bytes as uploaded, nothing dropped."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Assets, Binding, Confinement, Module, Version
from kythera.run.bindings import MAKERS
from kythera.run.config import CellSettings, cell_config, schema
from kythera.run.outbound import EgressDoor
from kythera.run.prelude import CLOCKS_MODULE, PRELUDE_MODULE, SOCKETS_MODULE

SECRET = "between us"
RUNNING = Confinement(clocks="running")


def read_back(config: bytes) -> Any:
    """Decode a configuration as workerd does."""
    with schema().Config.from_bytes(config) as decoded:
        return decoded.to_dict()


def version_of(modules: dict[str, tuple[str, bytes]], **fields: Any) -> Version:
    """Return a version whose modules' digests are their names."""
    listed = tuple(
        Module(name=name, type=kind, digest=name, size=len(content))
        for name, (kind, content) in modules.items()
    )
    return Version(
        account="a" * 32,
        worker="hello",
        id="01234567-89ab-4def-8123-456789abcdef",
        number=1,
        created_on="2026-11-23T00:00:00.000000Z",
        modules=listed,
        **fields,
    )


def configured(
    modules: dict[str, tuple[str, bytes]], settings: CellSettings | None = None, **fields: Any
) -> Any:
    """Return the configuration of such a version's cell, read back."""
    if "body_part" not in fields:
        fields.setdefault("main_module", next(iter(modules), None))
    blobs = {name: content for name, (_, content) in modules.items()} | {"manifest": b"[]"}
    config = cell_config(
        version_of(modules, **fields),
        read_blob=blobs.__getitem__,
        open_secret=lambda name, sealed: f"{name}={sealed}",
        settings=settings or CellSettings(),
    )
    return read_back(config)


def worker_of(config: Any, name: str = "worker") -> Any:
    """Return one worker's part of a configuration."""
    return next(s["worker"] for s in config["services"] if s["name"] == name)


def uploaded(config: Any) -> list[Any]:
    """Return the worker's modules without those of ours that stand before them."""
    return [m for m in worker_of(config)["modules"] if not m["name"].startswith("kythera-")]


MAIN = {"index.js": ("esm", b"export default {}")}
FIELDS = {"text": "text", "data": "data", "wasm": "wasm", "cjs": "commonJsModule", "json": "json"}
part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
names = (
    st.lists(part, min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda name: ".." not in name.split("/") and name != "index.js")
    .filter(lambda name: "kythera" not in name.lower())  # what it finds in our own sources
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.dictionaries(names | names.map("./{}".format), st.sampled_from(sorted(FIELDS))), texts)
def test_modules_keep_their_names_and_bytes(kinds: dict[str, str], text: str) -> None:
    """Goal: bundlers import by the very names they uploaded, `./` in front included."""
    content = text.encode()
    modules = MAIN | {name: (kind, content) for name, kind in kinds.items()}
    found = uploaded(configured(modules, confinement=RUNNING))
    assert found[0] == {"name": "index.js", "esModule": "export default {}"}
    expected = {name: content if kind in ("data", "wasm") else text for name, kind in kinds.items()}
    assert {m["name"]: m[FIELDS[kinds[m["name"]]]] for m in found[1:]} == expected


def test_the_main_module_comes_first_and_source_maps_stay_out() -> None:
    """Goal: workerd starts the first module; maps are for our eyes."""
    modules = {
        "a.js": ("esm", b"1"),
        "index.js.map": ("source_map", b"{}"),
        "index.js": ("esm", b"2"),
    }
    config = configured(modules, main_module="index.js", confinement=RUNNING)
    found = uploaded(config)
    assert [module["name"] for module in found] == ["index.js", "a.js"]


def test_the_prelude_stands_before_a_worker_that_has_a_fetch_handler() -> None:
    """Goal: it is there to tell exceptions of requests; of whom nobody asks there are none, and an
    observed cell has traces."""
    name = "a'\"\\b.js"
    modules = {name: ("esm", b"")}
    first = worker_of(configured(modules, handlers=("fetch",)))["modules"][0]
    assert first["name"] == PRELUDE_MODULE
    assert f"export * from {json.dumps(name)};" in first["esModule"]
    assert "'%" not in first["esModule"]
    assert "native.print" in first["esModule"]
    observed = CellSettings(tail_url_socket=Path("/run/tail.sock"))
    for config in (
        configured(modules, handlers=("scheduled",), confinement=RUNNING),
        configured(modules, observed, handlers=("fetch",), confinement=RUNNING),
    ):
        assert "native.print" not in worker_of(config)["modules"][0]["esModule"]


CELLS: list[tuple[CellSettings, tuple[str, ...]]] = [
    (CellSettings(), ("fetch",)),
    (CellSettings(), ("scheduled",)),
    (CellSettings(), ()),
    (CellSettings(tail_url_socket=Path("/run/tail.sock")), ("fetch",)),
]


@pytest.mark.parametrize(("settings", "handlers"), CELLS)
def test_clocks_stand_still_unless_a_version_says_otherwise(
    settings: CellSettings, handlers: tuple[str, ...]
) -> None:
    """Goal: whatever stands before a worker, it imports the clocks before anything else; who asks
    for running clocks has nothing of them."""
    config = configured(MAIN, settings, handlers=handlers)
    (extension,) = config["extensions"]
    assert extension["modules"][0]["name"] == CLOCKS_MODULE
    first = worker_of(config)["modules"][0]
    assert first["name"] == PRELUDE_MODULE
    assert first["esModule"].startswith(f'import "{CLOCKS_MODULE}";\n')
    running = configured(MAIN, settings, handlers=handlers, confinement=RUNNING)
    assert "kythera:" not in worker_of(running)["modules"][0]["esModule"].partition("function")[0]
    assert "extensions" not in running


def test_sockets_with_tls_come_before_a_module_that_may_use_them(tmp_path: Path) -> None:
    """Goal: a cell with a way out has them, whatever else stands before it; a script, which cannot
    import sockets, and a cell without a way out have not."""
    out = CellSettings(egress=EgressDoor(tmp_path / "egress.sock", "k", Limits()))
    for confinement, handlers in ((Confinement(), ("fetch",)), (RUNNING, ("scheduled",))):
        config = configured(MAIN, out, handlers=handlers, confinement=confinement)
        names = [module["name"] for module in config["extensions"][0]["modules"]]
        assert names[-1] == SOCKETS_MODULE
        first = worker_of(config)["modules"][0]["esModule"]
        assert f'import "{SOCKETS_MODULE}";\n' in first.partition("export")[0]
    shut = configured(MAIN, handlers=("fetch",))
    assert [module["name"] for module in shut["extensions"][0]["modules"]] == [CLOCKS_MODULE]
    script = {"w.js": ("service_worker", b"addEventListener('fetch', f)")}
    of_script = configured(script, out, body_part="w.js")
    assert [module["name"] for module in of_script["extensions"][0]["modules"]] == [CLOCKS_MODULE]


def test_a_scripts_clocks_come_before_all_else_of_it() -> None:
    """Goal: not a letter of the script is moved: a binding evaluates the clocks."""
    modules = {"w.js": ("service_worker", b"addEventListener('fetch', f)")}
    config = configured(modules, body_part="w.js")
    worker = worker_of(config, "w.js")
    assert worker["bindings"] == [{"name": "Date", "wrapped": {"moduleName": CLOCKS_MODULE}}]
    assert config["extensions"][0]["modules"][0]["internal"]
    running = worker_of(configured(modules, body_part="w.js", confinement=RUNNING), "w.js")
    assert running["bindings"] == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)


@given(texts, json_values, texts)
def test_bindings_hold_what_was_given(text: str, value: Any, secret: str) -> None:
    """Goal: values arrive as they were sent, whatever is in them; secrets are opened by name."""
    bindings = (
        Binding(name="TEXT", type="plain_text", fields={"text": text}),
        Binding(name="VALUE", type="json", fields={"json": value}),
        Binding(name="SECRET", type="secret_text", fields={"sealed": secret}),
    )
    found = worker_of(configured(MAIN, bindings=bindings))["bindings"]
    assert [binding["name"] for binding in found] == ["TEXT", "VALUE", "SECRET"]
    assert (found[0]["text"], found[2]["text"]) == (text, f"SECRET={secret}")
    assert json.loads(found[1]["json"]) == value


def test_a_version_knows_itself() -> None:
    """Goal: version metadata is id, tag and time."""
    bindings = (Binding(name="META", type="version_metadata"),)
    annotations = {"workers/tag": "v1", "workers/message": "m"}
    config = configured(MAIN, bindings=bindings, annotations=annotations)
    assert json.loads(worker_of(config)["bindings"][0]["json"]) == {
        "id": "01234567-89ab-4def-8123-456789abcdef",
        "tag": "v1",
        "timestamp": "2026-11-23T00:00:00.000000Z",
    }


def test_a_script_gets_its_parts_as_bindings() -> None:
    """Goal: service-worker format with wasm, text and data, under the script's own name."""
    modules = {
        "w.js": ("service_worker", b"addEventListener('fetch', f)"),
        "./a.wasm": ("wasm", b"\0asm"),
        "./t.txt": ("text", b"text"),
        "./d.bin": ("data", b"\xff"),
    }
    kinds = {"WASM": "wasm_module", "TEXT": "text_blob", "DATA": "data_blob"}
    parts = dict(zip(kinds, list(modules)[1:], strict=True))
    bindings = tuple(
        Binding(name=name, type=kind, fields={"part": parts[name]}) for name, kind in kinds.items()
    )
    worker = worker_of(
        configured(modules, body_part="w.js", bindings=bindings, confinement=RUNNING), "w.js"
    )
    assert worker["serviceWorkerScript"] == "addEventListener('fetch', f)"
    assert worker["bindings"] == [
        {"name": "WASM", "wasmModule": b"\0asm"},
        {"name": "TEXT", "text": "text"},
        {"name": "DATA", "data": b"\xff"},
    ]


@given(st.text(min_size=1).filter(lambda kind: kind not in MAKERS))
def test_a_binding_that_is_not_offered_is_refused_by_name(kind: str) -> None:
    """Goal: never dropped, always named, with what is offered instead."""
    with pytest.raises(Refusal) as refused:
        configured(MAIN, bindings=(Binding(name="STORE", type=kind),))
    assert refused.value.code == 10021
    assert "'STORE'" in str(refused.value)
    assert repr(kind) in str(refused.value)
    assert "plain_text" in str(refused.value)


@pytest.mark.parametrize("name", ["/a.js", "../a.js", "a/../../b.js", "a\0b.js"])
def test_a_module_name_that_leads_out_of_the_upload_is_refused(name: str) -> None:
    """Goal: a sentence instead of workerd's internal error."""
    with pytest.raises(Refusal, match="leads out of the upload"):
        configured(MAIN | {name: ("esm", b"")})


def test_a_module_that_is_not_offered_is_refused_by_name() -> None:
    """Goal: Python, and text that is none, are named."""
    with pytest.raises(Refusal, match=r"'a\.py' has type 'python'"):
        configured(MAIN | {"a.py": ("python", b"")})
    with pytest.raises(Refusal, match=r"'a\.js' is not UTF-8 \(byte 1\)"):
        configured(MAIN | {"a.js": ("esm", b"a\xff")})
    with pytest.raises(Refusal, match=r"no module named 'gone\.js'"):
        configured(MAIN, main_module="gone.js")


def test_the_socket_takes_what_the_front_door_says() -> None:
    """Goal: the front relies on these."""
    socket, pulse = configured(MAIN)["sockets"]
    assert (pulse["name"], pulse["service"]["name"]) == ("pulse", "internet")
    assert (socket["name"], socket["service"]["name"]) == ("http", "worker")
    http = socket["http"]
    assert (http["forwardedProtoHeader"], http["cfBlobHeader"]) == ("X-Kythera-Scheme", "CF-Blob")


def test_a_cell_reaches_nothing_but_the_egress_cell() -> None:
    """Goal: no cell has a network of its own; what leaves it says whose it is, and nothing that the
    worker wrote can stand in its place."""
    config = configured(MAIN, CellSettings(egress=EgressDoor(Path("/run/e.sock"), "k", Limits())))
    services = {service["name"]: service for service in config["services"]}
    assert worker_of(config)["globalOutbound"]["name"] == "outbound"
    assert [s["network"].get("allow", []) for s in services.values() if "network" in s] == [[]]
    for name, ticket in (("egress", None), ("tunnels", "ticket")):
        external = services[name]["external"]
        assert external["address"] == "unix:/run/e.sock"
        who, connect = external["http"]["injectRequestHeaders"]
        assert who["name"] == "X-Kythera-Egress"
        assert who["value"].count(".") == 1
        assert (connect["name"], connect.get("value")) == ("X-Kythera-Connect", ticket)


def test_a_worker_without_egress_is_given_no_way_out() -> None:
    """Goal: `none` is not a rule that somebody applies: there is nothing to reach."""
    settings = CellSettings(egress=EgressDoor(Path("/run/e.sock"), "k", Limits()))
    config = configured(MAIN, settings, confinement=Confinement(egress="none"))
    assert not [service for service in config["services"] if "external" in service]
    assert worker_of(config)["globalOutbound"]["name"] == "outbound"


def test_without_an_egress_cell_nothing_is_reached() -> None:
    """Goal: a trial, and whatever forgets to say so, reaches nothing."""
    config = configured(MAIN)
    assert worker_of(config)["globalOutbound"]["name"] == "internet"
    assert not [service for service in config["services"] if "external" in service]


def test_the_heap_has_a_limit_unless_it_is_nought() -> None:
    """Goal: V8's limit is the platform's."""
    assert configured(MAIN, CellSettings(heap_mib_max=64))["v8Flags"] == [
        "--max-heap-size=64",
        "--max-semi-space-size=8",
    ]
    assert configured(MAIN, CellSettings(heap_mib_max=0)).get("v8Flags", []) == []


def test_only_a_watched_worker_has_a_tail() -> None:
    """Goal: not watching costs nothing."""
    assert not worker_of(configured(MAIN)).get("tails")
    config = configured(MAIN, CellSettings(tail_url_socket=Path("/run/tail.sock")))
    assert [tail["name"] for tail in worker_of(config)["tails"]] == ["tail"]
    (sink,) = [s["external"] for s in config["services"] if s["name"] == "tail-sink"]
    assert sink["address"] == "unix:/run/tail.sock"


def test_assets_stand_behind_the_door() -> None:
    """Goal: the socket leads to the door, the door to the files, the files to the worker."""
    settings = CellSettings(assets_dir=Path("/assets/tree"))
    assets = Assets(manifest="manifest", config={"run_worker_first": True})
    bindings = (Binding(name="ASSETS", type="assets"),)
    config = configured(MAIN, settings, assets=assets, bindings=bindings)
    (service,) = [s["assets"] for s in config["services"] if s["name"] == "assets"]
    assert service["path"] == "/assets/tree"
    assert json.loads(service["config"]) == {"run_worker_first": True}
    assert service["userWorker"]["name"] == "worker"
    assert config["sockets"][0]["service"]["name"] == "door"
    binding = worker_of(config)["bindings"][0]["service"]
    assert (binding["name"], binding["entrypoint"]) == ("assets", "AssetWorker")


def test_only_who_has_other_handlers_is_called_on_the_pulse() -> None:
    """Goal: `events.js` stands behind the pulse of a worker that needs it, and costs no other one."""
    plain = configured(MAIN, handlers=("fetch",))
    assert [s["name"] for s in plain["services"]].count("events") == 0
    called = configured(MAIN, handlers=("fetch", "scheduled"))
    assert worker_of(called, "events")["bindings"][0]["service"]["name"] == "worker"
    for config, service in ((plain, "internet"), (called, "events")):
        sockets = {socket["name"]: socket["service"]["name"] for socket in config["sockets"]}
        assert sockets["pulse"] == service
