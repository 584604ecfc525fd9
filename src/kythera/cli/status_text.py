"""The status as a person reads it: machines by site, below each relay those that follow it; then
cells, the busiest first. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kythera.cli.command import table

UNREACHABLE = "unreachable"
OFFSET_MS_MAX = 2_000
"""A clock that is further off than this is worth a line."""
QUIET = ("head_not_sent",)
"""Refusals that are no news: whoever connects and leaves is one, `kythera doctor` and browsers among
them. --json and the metrics have them."""

Machine = Mapping[str, Any]


def text(document: Mapping[str, Any]) -> str:
    """Return the status as a person reads it."""
    machines = document["machines"]
    shown = one_machine(machines[0]) if len(machines) == 1 else fleet(machines)
    parts = [shown, *notes(machines)]
    cells = cells_text(document["cells"], len(machines))
    asked = uses_text(machines)
    cells += f"\n\n{asked}" if asked else ""
    return "\n".join(parts) + "\n\n" + cells + incidents_text(document.get("incidents") or ())


WORDS = {
    "exceededCpu": "ended for its CPU time",
    "exceededMemory": "ended for its memory",
    "crashed": "crashed",
    "startFailed": "did not start",
    "logsDropped": "lines of its console dropped",
    "exceededSubrequests": "requests refused more subrequests",
}


def incidents_text(incidents: Sequence[Mapping[str, Any]]) -> str:
    """Return what has befallen cells, a line for each worker and machine; nothing for nothing."""
    rows = [
        (
            plain(one.get("worker", "?")),
            plain(one.get("machine", "?")),
            ", ".join(f"{n} x {WORDS.get(why, plain(why))}" for why, n in counts.items()),
            plain(last[-1].get("at", "-"))[:19] if (last := one.get("last")) else "-",
        )
        for one in incidents
        if (counts := one.get("counts"))
    ]
    return "\n\n" + table(("WORKER", "MACHINE", "WHAT BEFELL IT", "LAST"), rows) if rows else ""


def one_machine(machine: Machine) -> str:
    """Return the table of a machine that is alone."""
    row = (
        plain(machine.get("name", "?")),
        state(machine),
        plain(machine.get("site", "-")),
        machine.get("cores", "-"),
        percent(machine.get("cpu_share")),
        plain(machine.get("log", "-")),
    )
    return table(("MACHINE", "STATE", "SITE", "CORES", "CPU", "LOG"), [row])


def fleet(machines: Sequence[Machine]) -> str:
    """Return the table of many machines."""
    head = "SITE MACHINE STATE FOLLOWS LAG CORES CPU MEMORY CELLS KYTHERA WORKERD".split()
    rows = []
    place_before = None
    for depth, machine in tree(machines):
        there = place(machine)
        name = plain(machine.get("name", "?")) + (" *" if machine.get("core") else "")
        rows.append(
            (
                "" if there == place_before else there,
                "  " * (depth - 1) + ("└ " if depth else "") + name,
                state(machine),
                source(machine),
                *measures(machine),
                plain(machine.get("kythera") or "-"),
                plain(machine.get("workerd") or "-"),
            )
        )
        place_before = there
    return table(head, rows) + "\n* holds the log"


def place(machine: Machine) -> str:
    """Return a machine's site, with its region and world where they are told."""
    parts = (machine.get("world"), machine.get("region"), machine.get("site", "-"))
    return plain("/".join(str(part) for part in parts if part))


def measures(machine: Machine) -> tuple[object, ...]:
    """Return what changes each second; of a silent machine it is not known."""
    cores = machine.get("cores", "-")
    if machine.get("state") == UNREACHABLE:
        return "-", cores, "-", "-", "-"
    memory = machine.get("memory") or {}
    total = memory.get("total_bytes")
    return (
        duration(machine.get("lag_ms")),
        cores,
        percent(machine.get("cpu_share")),
        percent(memory.get("used_bytes", 0) / total if total else None),
        machine.get("cells", "-"),
    )


def tree(machines: Sequence[Machine]) -> Iterator[tuple[int, Machine]]:
    """Yield machines with their depth: by site, core ones first, each relay before who follows it."""
    for site in sorted({place(machine) for machine in machines}):
        here = sorted(
            (machine for machine in machines if place(machine) == site),
            key=lambda machine: (not machine.get("core"), str(machine.get("name"))),
        )
        yield from _branches(here)


def _branches(machines: Sequence[Machine]) -> Iterator[tuple[int, Machine]]:
    names = {machine.get("name") for machine in machines}
    seen: set[object] = set()

    def below(name: object, depth: int) -> Iterator[tuple[int, Machine]]:
        for machine in machines:
            own = machine.get("name")
            if machine.get("source") == name and own not in seen:
                seen.add(own)
                yield depth, machine
                yield from below(own, depth + 1)

    for machine in machines:
        follows_here = machine.get("source") in names - {machine.get("name")}
        if not follows_here and machine.get("name") not in seen:
            seen.add(machine.get("name"))
            yield 0, machine
            yield from below(machine.get("name"), 1)
    # Machines that say they follow each other: no root leads to them.
    yield from ((0, machine) for machine in machines if machine.get("name") not in seen)


def source(machine: Machine) -> str:
    """Return whom a machine follows."""
    told = machine.get("source")
    if told == "core":
        return "the log"
    return plain(told) if told else "-"


def state(machine: Machine) -> str:
    """Return a machine's state, with the progress of a copy that is being made."""
    told = plain(machine.get("state", "?"))
    filling = machine.get("filling")
    if told == "filling" and filling and filling.get("target"):
        return f"filling {percent(min(1.0, filling.get('applied', 0) / filling['target']))}"
    return told


def notes(machines: Sequence[Machine]) -> Iterator[str]:
    """Yield a line for each machine that something is wrong with."""
    for machine in machines:
        name = plain(machine.get("name", "?"))
        if machine.get("state") == UNREACHABLE:
            since = plain(machine.get("unreachable_since") or "?")
            yield f"{name} is unreachable since {since}: {plain(machine.get('why') or '?')}"
        offset = machine.get("clock_offset_ms")
        if offset is not None and abs(offset) > OFFSET_MS_MAX:
            side = "ahead of" if offset > 0 else "behind"
            yield f"{name}: its clock is {duration(abs(offset))} {side} the fleet's."
        audit = machine.get("audit_records") or {}
        late = audit.get("late", 0) - audit.get("written_late", 0) - audit.get("lost", 0)
        if late > 0:
            yield f"{name}: {late} audit records wait for the log; its journal has them already."
        refused = {why: n for why, n in (machine.get("refused") or {}).items() if n}
        if refused.keys() - QUIET:
            told = ", ".join(f"{plain(why)} {n}" for why, n in sorted(refused.items()))
            yield f"{name} refused at its door: {told}."
        change = machine.get("workerd_change")
        if change:
            yield f"{name}, workerd: {plain(change)}"
        unknown = machine.get("unknown_records")
        if unknown:
            yield (
                f"{name} cannot read {len(unknown)} records: a newer Kythera wrote them."
                " It serves what it understood last; upgrade it."
            )


def cells_text(cells: Sequence[Mapping[str, Any]], machines: int = 1) -> str:
    """Return the cells' table, the busiest first; with many machines it names them."""
    if not cells:
        return "No worker is deployed. Deploy one: kythera deploy [PATH]"
    ordered = sorted(
        cells, key=lambda cell: (-cell["requests"], cell["worker"], cell.get("machine", ""))
    )
    head = ["WORKER", "VERSION", "STATE", "PROCESSES", "PRIVATE MEMORY", "CPU", "REQUESTS"]
    rows = [
        [
            plain(cell["worker"]),
            plain(cell["version"][:8]),
            plain(cell["state"]),
            len(cell["pids"]),
            f"{cell['private_bytes'] / 1e6:.1f} MB" if cell["private_bytes"] else "-",
            f"{cell['cpu_seconds']:.1f} s",
            cell["requests"],
        ]
        for cell in ordered
    ]
    if machines > 1:
        head = ["MACHINE", *head]
        rows = [
            [plain(cell.get("machine", "?")), *row] for cell, row in zip(ordered, rows, strict=True)
        ]
    return table(head, rows)


def uses_text(machines: Sequence[Machine]) -> str:
    """Return what workers have asked of stores, added up over machines; empty: nothing yet."""
    sums: dict[tuple[str, str], dict[str, int]] = {}
    for machine in machines:
        for store, facts in (machine.get("stores") or {}).items():
            for use in facts.get("workers", ()):
                counts = sums.setdefault((use.get("worker", "?"), store), {})
                for name, count in (use.get("counts") or {}).items():
                    counts[name] = counts.get(name, 0) + count
    rows = [
        [
            plain(worker),
            plain(store),
            ", ".join(f"{plain(n)} {c:,}" for n, c in counts.items() if c),
        ]
        for (worker, store), counts in sorted(sums.items())
        if any(counts.values())
    ]
    return table(["WORKER", "STORE", "ASKED SINCE ITS AGENT BEGAN"], rows) if rows else ""


def objects_text(cells: Sequence[Mapping[str, Any]], machines: int = 1) -> str:
    """Return the table of object cells, the largest first; nothing where there are none."""
    if not cells:
        return ""
    ordered = sorted(cells, key=lambda cell: (-cell.get("private_bytes", 0), cell["worker"]))
    head = ["OBJECTS OF", "CLASSES", "STATE", "PRIVATE MEMORY", "CPU", "SINCE", "RESTARTS"]
    rows = [
        [
            plain(cell["worker"]),
            plain(", ".join([*cell.get("classes", ()), *cell.get("workflows", ())]) or "-"),
            plain(cell.get("state", "?")),
            f"{cell['private_bytes'] / 1e6:.1f} MB" if cell.get("private_bytes") else "-",
            f"{cell.get('cpu_seconds', 0):.1f} s",
            plain(cell.get("since") or "-")[:19],
            _restarts(cell),
        ]
        for cell in ordered
    ]
    if machines > 1:
        head = ["MACHINE", *head]
        rows = [
            [plain(cell.get("machine", "?")), *row] for cell, row in zip(ordered, rows, strict=True)
        ]
    return "\n\n" + table(head, rows)


def _restarts(cell: Mapping[str, Any]) -> str:
    crashes = cell.get("crashes", 0)
    return f"{cell.get('restarts', 0)}" + (f" ({crashes} crashed)" if crashes else "")


def percent(share: float | None) -> str:
    """Return a share of one as a percentage."""
    return "-" if share is None else f"{share * 100:.0f} %"


def duration(ms: float | None) -> str:
    """Return a length of time as a person says it."""
    if ms is None:
        return "-"
    if abs(ms) < 1_000:
        return f"{ms:.0f} ms"
    if abs(ms) < 120_000:
        return f"{ms / 1_000:.1f} s"
    return f"{ms / 60_000:.0f} min" if abs(ms) < 7_200_000 else f"{ms / 3_600_000:.1f} h"


def plain(told: object) -> str:
    """Return what a machine told, without what could do something to a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(told))
