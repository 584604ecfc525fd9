"""Starting a version for real: what it exports, or why it does not start, in good time, and
nothing left behind."""

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kythera.deploy.source_map import map_stack, source_maps
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Version
from kythera.run.trial import CPU_EXCEEDED, MEMORY_EXCEEDED, NO_HANDLERS, listeners
from tests.run.starting import Workshop

pytestmark = [pytest.mark.real, pytest.mark.anyio]

FINE = "export default { fetch() {} };"


@pytest.fixture(autouse=True)
def _no_folder_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Watch the temporary folder, whose path is longer than a socket's may be; processes and
    descriptors are watched for all tests."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


async def refused(workshop: Workshop, version: Version, limits: Limits | None = None) -> str:
    """Return the message with which a version is refused."""
    with pytest.raises(Refusal) as caught:
        await workshop.trial(version, limits)
    assert (caught.value.code, caught.value.status) == (10021, 400)
    return str(caught.value)


async def test_a_version_that_starts_tells_its_handlers(workshop: Workshop) -> None:
    """Goal: handlers of objects, instances and classes, and everything else that can be called."""
    code = """
        import { DurableObject, WorkerEntrypoint, WorkflowEntrypoint } from "cloudflare:workers";
        export class Thing extends DurableObject {}
        export class Flow extends WorkflowEntrypoint {}
        export class Entry extends WorkerEntrypoint { fetch() {} }
        export const other = { fetch() {} };
        class Base { fetch() {} }
        export default new (class extends Base { scheduled() {} queue = () => {}; })();
    """
    tried = await workshop.trial(workshop.worker(code))
    assert tried.handlers == ("fetch", "scheduled", "queue")
    assert sorted(tried.named_handlers) == ["Entry", "Flow", "Thing", "other"]
    assert 0 < tried.startup_time_ms < 5_000


async def test_a_version_may_export_classes_alone(workshop: Workshop) -> None:
    """Goal: a worker of Durable Objects has no handlers, and is no mistake."""
    code = """
        import { DurableObject } from "cloudflare:workers";
        export class Thing extends DurableObject {}
    """
    tried = await workshop.trial(workshop.worker(code))
    assert (tried.handlers, tried.named_handlers) == ((), ("Thing",))


async def test_an_entrypoint_class_tells_its_handlers(workshop: Workshop) -> None:
    """Goal: the same for a default class."""
    code = """
        import { WorkerEntrypoint } from "cloudflare:workers";
        export default class extends WorkerEntrypoint { fetch() {} scheduled() {} }
    """
    assert (await workshop.trial(workshop.worker(code))).handlers == ("fetch", "scheduled")


async def test_scripts_and_assets_alone_start_too(workshop: Workshop) -> None:
    """Goal: service-worker format, and no code at all."""
    script = workshop.script("addEventListener('fetch', (e) => e.respondWith(new Response()))")
    assert (await workshop.trial(script)).handlers == ("fetch",)
    tried = await workshop.trial(workshop.version(assets=workshop.assets({"/a": b"a"})))
    assert tried.handlers == ()


def test_a_scripts_listeners_are_read_from_its_text() -> None:
    """Goal: what cannot be asked for is found; what cannot be found is taken to be fetch."""
    assert listeners("self.addEventListener( 'scheduled', f)") == ("scheduled",)
    both = 'addEventListener("scheduled",f);addEventListener("fetch",f)'
    assert listeners(both) == ("fetch", "scheduled")
    assert listeners("globalThis[listen](which, f)") == ("fetch",)


REFUSALS = {
    "syntax": (
        "let a = 1;\nlet b = ;\n" + FINE,
        "Uncaught SyntaxError: Unexpected token ';'\n  at index.js:2:8",
    ),
    "throw": (
        "function f() {\n  throw new TypeError('boom');\n}\nf();\n" + FINE,
        "Uncaught TypeError: boom\n  at index.js:2:9 in f\n  at index.js:4:1",
    ),
    "missing import": (
        "import x from './gone.js';\n" + FINE,
        'Uncaught Error: No such module "gone.js".\n  imported from "index.js"',
    ),
    "missing export": (
        "import { Gone } from 'cloudflare:workers';\n" + FINE,
        "does not provide an export named 'Gone'\n  at index.js:1:9",
    ),
    "nothing": ("console.log(1);", NO_HANDLERS),
    "empty": ("export default {};", NO_HANDLERS),
    "not a handler": ("export const n = 5;\n" + FINE, "Incorrect type for map entry 'n'"),
    "never": ("await new Promise(() => {});\n" + FINE, "Top-level await in module is unsettled."),
    "network": ("await fetch('http://x/');\n" + FINE, "Disallowed operation called within global"),
}


@pytest.mark.parametrize(("code", "message"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_what_does_not_start_is_refused_in_javascripts_words(
    workshop: Workshop, code: str, message: str
) -> None:
    """Goal: message, module, line and column, and nothing of our own machinery."""
    told = await refused(workshop, workshop.worker(code))
    assert message in told
    assert "Kythera" not in told
    assert "service " not in told


async def test_a_script_that_does_not_start_is_refused(workshop: Workshop) -> None:
    """Goal: the same for service-worker format, under the script's own name."""
    told = await refused(workshop, workshop.script("\nthrow new Error('boom')"))
    assert told == "Uncaught Error: boom\n  at worker.js:2:7"
    assert await refused(workshop, workshop.script("1;")) == NO_HANDLERS


async def test_broken_modules_of_other_kinds_are_named(workshop: Workshop) -> None:
    """Goal: workerd does not say which file it could not read; we do."""
    code = "import a from './a.bin';\n" + FINE
    for kind, content in (("wasm", b"no wasm"), ("json", b"{")):
        version = workshop.worker(code, workshop.module("./a.bin", content, kind))
        told = await refused(workshop, version)
        assert told.startswith("Uncaught ")
        assert told.endswith("\n  in ./a.bin")


async def test_dates_and_flags_that_workerd_does_not_know_are_refused(workshop: Workshop) -> None:
    """Goal: a sentence that says which date would do."""
    told = await refused(workshop, workshop.worker(FINE, compatibility_date="2099-01-01"))
    assert 'requires compatibility date "2099-01-01", but this platform supports dates' in told
    told = await refused(workshop, workshop.worker(FINE, compatibility_flags=("no_such_flag",)))
    assert "No such compatibility flag: no_such_flag" in told
    told = await refused(workshop, workshop.worker(FINE, compatibility_date="yesterday"))
    assert "yesterday" in told


async def test_asset_settings_that_workerd_does_not_know_are_refused(workshop: Workshop) -> None:
    """Goal: a version whose settings would stop its cell never gets that far."""
    version = workshop.version(assets=workshop.assets({}, html_handling="sideways"))
    assert "unknown variant `sideways`" in await refused(workshop, version)


async def test_an_endless_loop_is_refused_in_time(workshop: Workshop) -> None:
    """Goal: code that burns at top level is stopped by its CPU limit."""
    begun = time.monotonic()
    told = await refused(workshop, workshop.worker("while (true) {}"), Limits(startup_ms_max=300))
    assert told == CPU_EXCEEDED
    assert time.monotonic() - begun < 10


async def test_code_that_takes_too_long_without_burning_is_refused(workshop: Workshop) -> None:
    """Goal: the wall clock is a limit of its own."""
    limits = Limits(startup_ms_max=60_000, startup_deadline_ms=200)
    told = await refused(workshop, workshop.worker("while (true) {}"), limits)
    assert told == "The script's top-level code took longer than 200 ms."


BUFFERS_EXCEEDED = "RangeError: Array buffer allocation failed"
LEAKS = {
    "heap": "const all = []; while (true) all.push(new Array(1000).fill({}));",
    "buffers": "const all = []; while (true) all.push(new Uint8Array(1e7).fill(1));",
}


@pytest.mark.parametrize("code", LEAKS.values(), ids=LEAKS.keys())
async def test_code_that_eats_memory_is_refused(workshop: Workshop, code: str) -> None:
    """Goal: neither V8's heap nor what lies outside of it takes the machine with it; where the
    sandbox refuses memory, code may be told so in its own language."""
    limits = Limits(startup_ms_max=60_000, startup_deadline_ms=30_000)
    told = await refused(workshop, workshop.worker(code), limits)
    assert told == MEMORY_EXCEEDED or told.startswith(f"Uncaught {BUFFERS_EXCEEDED}")


async def test_a_flood_of_output_does_not_stop_the_start(workshop: Workshop) -> None:
    """Goal: somebody reads what the trial prints."""
    code = "for (let i = 0; i < 3000; i += 1) console.log('x'.repeat(1000));\n" + FINE
    assert (await workshop.trial(workshop.worker(code))).handlers == ("fetch",)


@pytest.mark.parametrize(
    "made", ["7", "({ handlers: 7 })", "'x'.repeat(3e7)", "{ toJSON: () => { throw 1 } }"]
)
async def test_code_that_poisons_how_it_tells_its_exports_is_refused(
    workshop: Workshop, made: str
) -> None:
    """Goal: a refusal, and no error of ours, whatever it makes of our question."""
    code = f"Object.prototype.toJSON = () => ({made});\n{FINE}"
    assert "did not answer" in await refused(workshop, workshop.worker(code))


async def test_a_source_map_leads_to_the_line_that_was_written(workshop: Workshop) -> None:
    """Goal: with a map the refusal speaks of the sources."""
    code = "throw new Error('boom');\n" + FINE
    # Generated 1:1 is line 7, column 3 of the source.
    mapped = {"version": 3, "sources": ["../src/app.ts"], "names": [], "mappings": "AAME"}
    sent = workshop.module("index.js.map", json.dumps(mapped), "source_map")
    version = workshop.worker(code, sent)
    maps = source_maps(version, workshop.blobs.read)
    with pytest.raises(Refusal, match=r"boom\n  at src/app\.ts:7:3"):
        await workshop.trial(version, map_stack=lambda stack: map_stack(stack, maps))


async def test_several_trials_run_at_once(workshop: Workshop) -> None:
    """Goal: uploads do not wait for one another's verdicts, and do not mix them up."""
    told: dict[int, tuple[str, ...]] = {}

    async def one(number: int) -> None:
        code = f"export default {{ fetch() {{}} }}; export class C{number} {{}}"
        told[number] = (await workshop.trial(workshop.worker(code))).named_handlers

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, number)
    assert told == {number: (f"C{number}",) for number in range(6)}


async def test_a_trial_that_is_cancelled_leaves_nothing_behind(workshop: Workshop) -> None:
    """Goal: a client that hangs up costs no process, descriptor or folder (watched around every
    test), and the next trial has its turn."""
    for _ in range(3):
        with anyio.move_on_after(0.1) as patience:
            await workshop.trial(workshop.worker("while (true) {}"))
        assert patience.cancelled_caught
    assert (await workshop.trial(workshop.worker(FINE))).handlers == ("fetch",)
