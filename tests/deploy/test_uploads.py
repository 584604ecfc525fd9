"""What an upload form becomes."""

import json
from typing import Any

import pytest

from kythera.deploy.bindings import Origin
from kythera.deploy.seal import Sealer
from kythera.deploy.upload import Draft, Part, draft, read_upload
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Assets, Version

ESM = "application/javascript+module"


def part(name: str, data: bytes = b"", content_type: str = ESM) -> Part:
    """Return a file of a form."""
    return Part(name, name, content_type, data)


def drafted(*files: Part, previous: Version | None = None, **metadata: Any) -> Draft:
    """Return the draft of a form."""
    origin = Origin(
        account="a", worker="w", seals=Sealer(bytes(32)), limits=Limits(), previous=previous
    )
    described = Part("metadata", None, "", json.dumps(metadata).encode())
    upload = read_upload([described, *files], metadata_bytes_max=10_000)
    return draft(upload, origin, lambda token: f"manifest of {token}")


def test_equal_uploads_have_equal_etags_whatever_their_secrets() -> None:
    """And another letter of code, or another setting, makes another."""
    code = part("a.js", b"export default {}")
    secret = {"name": "S", "type": "secret_text"}
    first = drafted(code, main_module="a.js", bindings=[{**secret, "text": "1"}])
    again = drafted(
        code,
        main_module="a.js",
        bindings=[{**secret, "text": "2"}],
        annotations={"workers/message": "m"},
    )
    assert first.version.etag == again.version.etag
    for other in (
        drafted(part("a.js", b"export default { }"), main_module="a.js"),
        drafted(code, main_module="a.js", compatibility_flags=["nodejs_compat"]),
        drafted(code, main_module="a.js", bindings=[{"name": "V", "type": "version_metadata"}]),
    ):
        assert other.version.etag != first.version.etag


def test_modules_keep_their_names_and_types() -> None:
    """Each content type that wrangler sends; parameters of types do not matter."""
    made = drafted(
        part("index.js"),
        part("./a.cjs", content_type="application/javascript"),
        part("sub/b.txt", "ü".encode(), "text/plain; charset=utf-8"),
        part("c.bin", b"\xff", "application/octet-stream"),
        part("d.wasm", b"\0asm", "application/wasm"),
        part("e.json", b"{}", "application/json"),
        part("index.js.map", b"{}", "application/source-map"),
        main_module="index.js",
    )
    assert {m.name: m.type for m in made.version.modules} == {
        "index.js": "esm",
        "./a.cjs": "cjs",
        "sub/b.txt": "text",
        "c.bin": "data",
        "d.wasm": "wasm",
        "e.json": "json",
        "index.js.map": "source_map",
    }
    assert set(made.blobs) == {m.digest for m in made.version.modules}


def test_settings_of_the_worker_are_told_apart_from_the_versions() -> None:
    """Only what the metadata names is set."""
    made = drafted(part("i.js"), main_module="i.js")
    assert made.settings == {}
    made = drafted(
        part("i.js"),
        main_module="i.js",
        logpush=True,
        observability={"enabled": True},
        tags=["t"],
        migrations={"new_tag": "v1", "steps": []},
        limits={"cpu_ms": 50},
        kythera={"memory_mib": 64},
        placement={"mode": "smart"},
        unknown_key={"of": "the future"},
    )
    assert made.settings == {
        "logpush": True,
        "observability": {"enabled": True},
        "tags": ("t",),
        "migration_tag": "v1",
    }
    assert made.version.limits == {"cpu_ms": 50}
    assert made.version.confinement.memory_mib == 64


def test_assets_come_by_token_or_are_kept() -> None:
    """New configuration may be laid over assets that are kept."""
    made = drafted(assets={"jwt": "x", "config": {"html_handling": "none"}})
    assert made.version.assets == Assets(manifest="manifest of x", config={"html_handling": "none"})
    kept = drafted(part("i.js"), main_module="i.js", keep_assets=True, previous=made.version)
    assert kept.version.assets == made.version.assets
    config = {"not_found_handling": "404-page"}
    changed = drafted(keep_assets=True, assets={"config": config}, previous=made.version)
    assert changed.version.assets == Assets(manifest="manifest of x", config=config)
    assert drafted(part("i.js"), main_module="i.js", previous=made.version).version.assets is None


def test_an_inherited_part_brings_its_module_along() -> None:
    """`versions secret put` of the older wrangler re-uploads a service worker's script alone."""
    script = part("i.js", b"addEventListener", "application/javascript")
    wasm = part("w", b"\0asm", "application/wasm")
    bound = [{"name": "W", "type": "wasm_module", "part": "w"}]
    first = drafted(script, wasm, body_part="i.js", bindings=bound)
    inherit = [{"name": "W", "type": "inherit"}]
    again = drafted(script, body_part="i.js", bindings=inherit, previous=first.version)
    assert again.version.modules == first.version.modules


@pytest.mark.parametrize(
    ("files", "metadata", "text"),
    [
        ([], {}, "neither code nor assets"),
        ([part("i.js")], {}, "no main_module"),
        ([], {"main_module": "i.js"}, "No such module"),
        ([part("i.js")], {"main_module": "j.js"}, "No such module"),
        ([part("i.js")], {"main_module": "i.js", "body_part": "i.js"}, "one of them"),
        ([part("i.js"), part("i.js")], {"main_module": "i.js"}, "twice"),
        ([part("i.js", b"\xff")], {"main_module": "i.js"}, "not UTF-8"),
        ([part("i.js", b"", "what/ever")], {"main_module": "i.js"}, "content type"),
        ([part("i.py", b"", "text/x-python")], {"main_module": "i.py"}, "Python"),
        ([part("i.wasm", b"", "application/wasm")], {"main_module": "i.wasm"}, "not JavaScript"),
        ([part("i.js"), part("j.js")], {"body_part": "i.js"}, "one script only"),
        ([part("a\nb")], {"main_module": "a\nb"}, "module's name"),
        ([part("i.js")], {"main_module": "i.js", "compatibility_date": "soon"}, "not a date"),
        ([part("i.js")], {"main_module": "i.js", "compatibility_date": "2026-02-30"}, "a date"),
        ([part("i.js")], {"main_module": "i.js", "compatibility_flags": ["a b"]}, "flag"),
        ([], {"assets": {}}, "no jwt"),
        ([], {"assets": {"jwt": "x", "config": {"html_handling": "x"}}}, "html_handling"),
        ([], {"assets": {"jwt": "x", "config": {"run_worker_first": ["x"]}}}, "run_worker_first"),
        (
            [part("i.js", b"", "application/javascript")],
            {"body_part": "i.js", "bindings": [{"name": "W", "type": "wasm_module", "part": "w"}]},
            "no part 'w'",
        ),
        (
            [part("i.js")],
            {"main_module": "i.js", "annotations": {"workers/message": "x" * 1001}},
            "longer than",
        ),
    ],
)
def test_uploads_that_make_no_sense_are_refused_in_words(
    files: list[Part], metadata: dict[str, Any], text: str
) -> None:
    """The message says which part is wrong."""
    with pytest.raises(Refusal, match=text):
        drafted(*files, **metadata)


def test_a_form_has_its_metadata_once_and_not_too_much_of_it() -> None:
    """Whether it is a field or a file called metadata."""
    for name in (None, "", "blob", "metadata"):
        one = Part("metadata", name, "application/json", b'{"a":1}')
        assert read_upload([one], metadata_bytes_max=100).metadata == {"a": 1}
    with pytest.raises(Refusal, match="no fields"):
        read_upload([part("i.js")], metadata_bytes_max=100)
    with pytest.raises(Refusal, match="2 fields"):
        read_upload([one, one], metadata_bytes_max=100)
    with pytest.raises(Refusal, match="larger"):
        read_upload([one], metadata_bytes_max=3)
