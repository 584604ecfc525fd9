"""Clocks stand still within a turn of the event loop and go on between turns, whatever a worker
tries; the probes are the workers under tests/hostile/clocks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from kythera.model.errors import Refusal
from kythera.model.records import Confinement, Version
from tests.run.starting import Workshop

pytestmark = [pytest.mark.real, pytest.mark.anyio]

PROBES = Path(__file__).resolve().parents[1] / "hostile" / "clocks"
PROBE_S_MAX = 60.0
NEWEST = "2026-11-17"
RUNNING = Confinement(clocks="running")
LARGE_MIB = 384
"""The search holds tens of thousands of functions and what they returned."""
NODE = {"compatibility_date": "2026-06-01", "compatibility_flags": ("nodejs_compat",)}
NEEDS: Mapping[str, Mapping[str, Any]] = {
    "scheduled": {"compatibility_flags": ("service_binding_extra_handlers",)},
}
SHOWS_A_RUNNING_CLOCK = frozenset(
    "date performance process intl stamps microtasks poisoned undone imported stacks tasks threads"
    " deep nested scheduled script".split()
)
"""Probes that see a clock run when clocks are left running: what they would find, they find."""


def names_of_probes() -> list[str]:
    """Return the probes' names, but for those that are asked in tests of their own."""
    return sorted({path.stem for path in PROBES.glob("*.js")} - {"search", "between"})


def probe(workshop: Workshop, name: str, **fields: Any) -> Version:
    """Return a version of one probe."""
    code = (PROBES / f"{name}.js").read_text()
    if name == "script":
        return workshop.script(code, **fields)
    fields = {"compatibility_date": NEWEST, **NEEDS.get(name, {}), **fields}
    return workshop.worker(code, **fields)


async def told(workshop: Workshop, version: Version, **settings: Any) -> dict[str, Any]:
    """Return what a probe found."""
    async with workshop.cell(version, **settings) as cell, cell.client() as client:
        response = await client.get("/", timeout=PROBE_S_MAX)
        assert response.status_code == 200, cell.said
        found: dict[str, Any] = response.json()
        return found


def check_standing(found: dict[str, Any]) -> None:
    """Complain of a clock that moved, of one that stopped for good, and of what was caught."""
    assert found["after"] == found["before"]
    assert all(found.get("itself", ())), found["itself"]
    assert all(found.get("advanced", {}).values()), found["advanced"]
    assert not found.get("strangers"), found["strangers"]
    assert not [name for name in found.get("caught", ()) if name != "species"], found["caught"]


@pytest.mark.parametrize("name", names_of_probes())
async def test_no_probe_sees_a_clock_move_within_a_turn(workshop: Workshop, name: str) -> None:
    """Goal: each attempt is contained as its file says, and breaks nothing on its way."""
    check_standing(await told(workshop, probe(workshop, name)))


@pytest.mark.parametrize("name", sorted(SHOWS_A_RUNNING_CLOCK))
async def test_each_probe_sees_a_clock_that_runs(workshop: Workshop, name: str) -> None:
    """Goal: the probes bite. Method: leave the clocks running, as a version may ask for."""
    found = await told(workshop, probe(workshop, name, confinement=RUNNING))
    assert found["after"] != found["before"]


@pytest.mark.parametrize("confinement", [Confinement(), RUNNING], ids=["frozen", "running"])
async def test_clocks_go_on_between_turns(workshop: Workshop, confinement: Confinement) -> None:
    """Goal: after each kind of waiting all clocks show what has passed."""
    flags = ("service_binding_extra_handlers",)
    version = probe(workshop, "between", confinement=confinement, compatibility_flags=flags)
    found = await told(workshop, version)
    assert found["advanced"] == dict.fromkeys(found["advanced"], True)
    assert len(found["advanced"]) == 11


SEARCHED: list[Mapping[str, Any]] = [
    {"compatibility_date": NEWEST},
    {"compatibility_date": "2024-09-30", "compatibility_flags": ("nodejs_compat",)},
    {"compatibility_date": "2024-03-01", "compatibility_flags": ("experimental", "unsafe_module")},
    {"compatibility_date": "2022-03-01"},
    {"compatibility_date": "2021-11-03"},
    {"compatibility_date": NEWEST, "compatibility_flags": ("new_module_registry",)},
]


@pytest.mark.parametrize(
    "fields", SEARCHED, ids=[str(sorted(f.values(), key=str)) for f in SEARCHED]
)
async def test_a_search_of_all_that_can_be_reached_finds_no_clock(
    workshop: Workshop, fields: Mapping[str, Any]
) -> None:
    """Goal: also what nobody thought of stands still, with old dates and new ones."""
    large = Confinement(memory_mib=LARGE_MIB)
    version = probe(workshop, "search", **fields, confinement=large)
    found = await told(workshop, version, heap_mib_max=LARGE_MIB)
    assert found["moved"] == {}
    assert found["calls"] > 10_000


async def test_the_search_finds_the_clocks_that_are_left_running(workshop: Workshop) -> None:
    """Goal: the search bites."""
    running = Confinement(clocks="running", memory_mib=LARGE_MIB)
    version = probe(workshop, "search", confinement=running)
    found = await told(workshop, version, heap_mib_max=LARGE_MIB)
    names = " ".join(found["moved"])
    for clock in ("Date.now", "hrtime", "performance.now", "performance.mark", "File", "format"):
        assert clock in names, names


READ = """
    const read = () => [Date.now(), performance.now(), new File([], 'x').lastModified];
    const burn = () => { let sum = 0; for (let i = 0; i < 2e7; i += 1) sum += i; return sum; };
"""


async def test_a_request_that_has_ended_leaves_no_time_behind(workshop: Workshop) -> None:
    """Goal: the next request finds the clock moved on, though the one before read it last of all,
    and others wait meanwhile."""
    code = f"""{READ}
        export default {{
          async fetch(request, env, ctx) {{
            const before = Date.now();
            burn();
            const stood = Date.now() === before;
            if (request.url.endsWith("/throw")) throw new Error("at the end of a turn");
            if (request.url.endsWith("/wait")) await scheduler.wait(200);
            if (request.url.endsWith("/late")) ctx.waitUntil(scheduler.wait(50).then(read));
            return Response.json({{ stood, time: Date.now() }});
          }},
        }};
    """
    times: list[int] = []
    async with workshop.cell(workshop.worker(code)) as cell, anyio.create_task_group() as tasks:

        async def wait() -> None:
            assert (await cell.get("/wait")).json()["stood"]

        for path in ("/", "/late", "/", "/late", "/"):
            tasks.start_soon(wait)
            await cell.get("/throw")
            answer = (await cell.get(path)).json()
            assert answer["stood"]
            times.append(answer["time"])
            await anyio.sleep(0.005)
    assert times == sorted(set(times))


KINDS = ["alone", "observed", "named"]


@pytest.mark.parametrize("kind", KINDS)
async def test_cells_without_a_prelude_of_exceptions_have_standing_clocks_too(
    workshop: Workshop, kind: str
) -> None:
    """Goal: whichever module stands before the worker, clocks are the first to be evaluated; a
    worker without a default export starts as well."""
    code = f"""{READ}
        import {{ WorkerEntrypoint }} from "cloudflare:workers";
        const stood = Date.now.toString().includes("native") === false;
        class Main extends WorkerEntrypoint {{
          fetch() {{
            const before = read(); burn();
            return Response.json({{ before, after: read(), itself: [stood] }});
          }}
        }}
        export {{ Main as {"Named" if kind == "named" else "default"} }};
    """
    settings = {"tail_url_socket": workshop.folder / "nobody.sock"} if kind == "observed" else {}
    version = workshop.worker(code, handlers=() if kind == "named" else ("fetch",))
    async with workshop.cell(version, **settings) as cell:
        response = await cell.get("/")
        if kind == "named":
            assert response.status_code == 500  # nobody is asked: it has no handler for requests
        else:
            check_standing(response.json())


async def test_a_trial_evaluates_the_clocks_before_the_worker(workshop: Workshop) -> None:
    """Goal: what does not start with standing clocks is refused at upload, not in a cell."""
    code = """
        if (Date.now.toString().includes("native")) throw new Error("clocks run");
        export default { fetch() {} };
    """
    assert (await workshop.trial(workshop.worker(code))).handlers == ("fetch",)
    with pytest.raises(Refusal, match="clocks run"):
        await workshop.trial(workshop.worker(code, confinement=RUNNING))
    script = "if (String(Date.now).includes('native')) throw Error('clocks run');\n"
    script += "addEventListener('fetch', () => {});"
    await workshop.trial(workshop.script(script))


IN_THE_WAY = [
    "kythera:clocks",
    "./kythera:clocks",
    "a/../kythera:clocks",
    "kythera%3Aclocks",
    "KYTHERA:clocks",
    "kythera-prelude.js",
    "./x/../kythera-prelude.js",
    "kythera%2dprelude.js",
    "kyth\nera:clocks",
]


@pytest.mark.parametrize("name", IN_THE_WAY)
@pytest.mark.parametrize("flags", [(), ("new_module_registry",)], ids=["old", "new"])
async def test_no_module_of_a_worker_takes_the_place_of_ours(
    workshop: Workshop, name: str, flags: tuple[str, ...]
) -> None:
    """Goal: a module that is uploaded under the name of one of ours is refused."""
    shadow = workshop.module(name, "export default {};")
    with pytest.raises(Refusal, match="one of Kythera's own"):
        workshop.config(workshop.worker("export default {};", shadow, compatibility_flags=flags))


async def test_flags_that_would_let_a_clock_run_are_refused(workshop: Workshop) -> None:
    """Goal: nothing is weakened silently; who wants them asks for running clocks."""
    old = ("workers_api_getters_setters_on_instance",)
    fields = {"compatibility_flags": old, "compatibility_date": "2021-11-03"}
    with pytest.raises(Refusal, match="would let a clock run"):
        workshop.config(probe(workshop, "date", **fields))
    workshop.config(probe(workshop, "date", **fields, confinement=RUNNING))
    with pytest.raises(Refusal, match="would let a clock run"):
        workshop.config(probe(workshop, "script", compatibility_flags=("legacy_module_registry",)))


async def test_positions_in_traces_are_those_of_the_worker(workshop: Workshop) -> None:
    """Goal: what fails inside of a frozen clock is told at the worker's own line, and none of
    ours is in the trace."""
    code = (
        "const odd = { valueOf() {\n"
        '  throw new TypeError("boom"); } };\n'
        "export default { fetch() {\n"
        "  new Date(odd, 1); } };\n"
    )
    async with workshop.cell(workshop.worker(code)) as cell:
        assert (await cell.get("/")).status_code == 500
        said = await cell.says('"stack"')
    line = next(line for line in said.splitlines() if '"stack"' in line)
    stack = json.loads(line.partition(" ")[2])["stack"]
    assert "(index.js:2:9)" in stack
    assert "index.js:4:3" in stack
    assert "kythera" not in stack
