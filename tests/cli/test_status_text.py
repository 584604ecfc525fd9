"""A fleet's status as a person reads it."""

from typing import Any

from kythera.cli.status_text import duration, objects_text, text

LEAD: dict[str, Any] = {
    "name": "a",
    "site": "berlin",
    "state": "active",
    "core": True,
    "source": "core",
    "relay": False,
    "lag_ms": 12,
    "clock_offset_ms": 3,
    "cpu_share": 0.25,
    "cores": 4,
    "cells": 1,
    "memory": {"used_bytes": 1, "total_bytes": 4},
    "kythera": "0.1.0",
    "workerd": "2026-11-17",
    "log": "connected",
    "unreachable_since": None,
    "why": "",
}
RELAY = {**LEAD, "name": "r", "site": "oslo", "core": False, "relay": True}
LEAF = {**RELAY, "name": "m", "relay": False, "source": "r", "lag_ms": 2_300}
LOST = {
    **LEAF,
    "name": "z",
    "state": "unreachable",
    "unreachable_since": "2026-11-23T08:00:00.000000Z",
    "why": "The machine 'z' did not answer within 2000 ms.",
}
NEW = {
    **LEAD,
    "name": "b",
    "core": False,
    "state": "filling",
    "filling": {"applied": 30, "target": 90},
    "lag_ms": None,
}
CELL: dict[str, Any] = {
    "machine": "m",
    "worker": "hello",
    "version": "21624ea2-b948-4249-8a4c-aaf244ae2692",
    "state": "ready",
    "pids": [12],
    "private_bytes": 10_700_000,
    "cpu_seconds": 1.25,
    "requests": 7,
}
GOLDEN = """\
SITE    MACHINE  STATE         FOLLOWS  LAG    CORES  CPU   MEMORY  CELLS  KYTHERA  WORKERD
berlin  a *      active        the log  12 ms  4      25 %  25 %    1      0.1.0    2026-11-17
        b        filling 33 %  the log  -      4      25 %  25 %    1      0.1.0    2026-11-17
oslo    r        active        the log  12 ms  4      25 %  25 %    1      0.1.0    2026-11-17
        └ m      active        r        2.3 s  4      25 %  25 %    1      0.1.0    2026-11-17
        └ z      unreachable   r        -      4      -     -       -      0.1.0    2026-11-17
* holds the log
z is unreachable since 2026-11-23T08:00:00.000000Z: The machine 'z' did not answer within 2000 ms.

MACHINE  WORKER  VERSION   STATE  PROCESSES  PRIVATE MEMORY  CPU    REQUESTS
m        hello   21624ea2  ready  1          10.7 MB         1.2 s  7
"""


def test_machines_stand_by_site_below_whom_they_follow() -> None:
    """The relay's followers are indented; what is not known of a silent one is not shown."""
    document = {"machines": [LEAF, LOST, RELAY, NEW, LEAD], "cells": [CELL]}
    assert text(document) + "\n" == GOLDEN


def test_machines_that_follow_each_other_are_shown_all_the_same() -> None:
    """No machine is lost, whatever they say of themselves."""
    one = {**LEAF, "name": "one", "source": "two"}
    two = {**LEAF, "name": "two", "source": "one"}
    itself = {**LEAF, "name": "three", "source": "three"}
    shown = text({"machines": [one, two, itself], "cells": []})
    for name in ("one", "two", "three"):
        assert sum(name in line.split()[:2] for line in shown.splitlines()) == 1


def test_what_is_wrong_with_a_machine_has_a_line() -> None:
    """A clock that is hours off, records of a newer Kythera."""
    slow = {**LEAD, "name": "s", "clock_offset_ms": -3 * 3_600_000}
    old = {**LEAD, "name": "o", "unknown_records": {"worker.x.y": "schema 2", "future.z": "?"}}
    shown = text({"machines": [slow, old], "cells": []})
    assert "s: its clock is 3.0 h behind the fleet's." in shown
    assert "o cannot read 2 records: a newer Kythera wrote them." in shown


def test_what_a_machine_told_cannot_trouble_a_terminal() -> None:
    """Control characters are replaced."""
    bad = {**LOST, "why": "\x1b[2Jboo", "kythera": "1\n2"}
    shown = text({"machines": [LEAD, bad], "cells": [{**CELL, "worker": "\x07x"}]})
    assert not {"\x1b", "\x07"} & set(shown)
    assert len(shown.splitlines()) == 8


def test_lengths_of_time_are_said_as_a_person_does() -> None:
    """Never more digits than one can use."""
    said = [duration(ms) for ms in (None, 3, 1_500, 600_000, 7_200_000)]
    assert said == ["-", "3 ms", "1.5 s", "10 min", "2.0 h"]


def test_audit_records_that_wait_are_said() -> None:
    """Until they are written, or gone from memory."""
    late = {**LEAD, "audit_records": {"late": 3, "written_late": 1}}
    assert "a: 2 audit records wait for the log" in text({"machines": [late], "cells": []})
    done = {**LEAD, "audit_records": {"late": 3, "written_late": 2, "lost": 1}}
    assert "audit" not in text({"machines": [done], "cells": []})


def test_object_cells_have_a_table_of_their_own() -> None:
    """Whose objects, of which classes, how large, since when, and how often begun anew."""
    shop = {
        "machine": "m", "worker": "shop", "classes": ["Cart"], "workflows": ["order"], "state": "up",
        "private_bytes": 21_000_000, "cpu_seconds": 1.25, "since": "2026-11-23T08:00:00.000000Z",
        "restarts": 3, "crashes": 1,
    }  # fmt: skip
    head, row = objects_text([shop]).strip().splitlines()
    assert head.split()[:3] == ["OBJECTS", "OF", "CLASSES"]
    assert row.split("  ")[0] == "shop"
    for told in ("Cart, order", "up", "21.0 MB", "1.2 s", "2026-11-23T08:00:00", "3 (1 crashed)"):
        assert told in row
    assert objects_text([]) == ""


def test_a_client_that_connects_and_leaves_is_no_news() -> None:
    """Beside another refusal it is told; both are told with --json."""
    quiet = {**LEAD, "refused": {"head_not_sent": 3, "queue": 0}}
    assert "refused" not in text({"machines": [quiet], "cells": []})
    both = {**LEAD, "refused": {"head_not_sent": 3, "queue": 1}}
    told = text({"machines": [both], "cells": []})
    assert "a refused at its door: head_not_sent 3, queue 1." in told
