"""What the agent tells of its machine is what other machines read."""

import os
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from kythera.control.status_document import (
    CellFacts,
    MachineFacts,
    ObjectCellFacts,
    StatusAnswer,
)
from kythera.ground.meters import machine_memory_bytes
from kythera.model.limits import Limits
from kythera.model.platform import Platform
from kythera.node.incidents import IncidentBook
from kythera.node.keeper_client import HeldProcess
from kythera.node.object_status import Lives, object_cell
from kythera.node.status import MachineFacts as Facts
from kythera.node.status import StatusServer, status
from kythera.run.cell import Want
from kythera.run.decide import Cells

PLATFORM = Platform(account_id="a" * 32, machine="m", site="s", region="r", world="w", mesh="h:1")


def told(facts: Facts) -> dict[str, Any]:
    """Return the document of a machine with one cell, as it is sent."""
    cells = Cells("/run", Limits(), cores=2)
    cells.want({("a" * 32, "shop"): {"v1": Want(100.0)}}, 0.0)
    document: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(status(PLATFORM, cells, facts))
    )
    return document


def test_every_field_is_read_by_other_machines() -> None:
    """A field that nobody reads would be lost in the fleet's status."""
    held = HeldProcess("objects/a/shop", os.getpid(), {"workerd": "m1"}, True, 1.5, None)
    shop = object_cell(
        ("a" * 32, "shop"),
        held,
        "up",
        classes=["Cart"],
        workflows=[],
        lives=Lives(2, 1),
        watched=True,
    )
    facts = Facts(lag_ms=3, clock_offset_ms=-1, filling=(1, 2), unknown_records={"k": "w"})
    facts.objects, facts.workerds = (lambda: [shop]), {"m1": "1.2026"}
    document = told(facts)
    answer = msgspec.convert(document, StatusAnswer)
    assert document["machines"][0].keys() <= set(MachineFacts.__struct_fields__)
    assert document["cells"][0].keys() == set(CellFacts.__struct_fields__)
    again = msgspec.to_builtins(answer)
    assert again["cells"] == document["cells"]
    assert document["objects"][0].keys() == set(ObjectCellFacts.__struct_fields__)
    assert again["objects"] == document["objects"]
    assert (shop["private_bytes"] > 0, document["objects"][0]["workerd"]) == (True, "1.2026")
    assert document["objects"][0]["since"] == "1970-01-01T00:00:01.500000Z"
    assert again["machines"][0].items() >= document["machines"][0].items()


def test_the_places_of_a_machine_are_told_as_it_was_started() -> None:
    """Site, region, world and where others reach it."""
    machine = told(Facts())["machines"][0]
    places = [machine[key] for key in ("name", "site", "region", "world", "mesh", "state")]
    assert places == ["m", "s", "r", "w", "h:1", "active"]
    assert machine["cells"] == 1


def test_a_copy_that_is_being_made_shows_how_far_it_is() -> None:
    """Whatever else the machine is."""
    machine = told(Facts(state="draining", filling=(30, 90)))["machines"][0]
    assert machine["state"] == "filling"
    assert machine["filling"] == {"applied": 30, "target": 90}


def test_the_memory_in_use_is_a_part_of_all() -> None:
    """In bytes, as the kernel counts."""
    used, total = machine_memory_bytes()
    assert 0 < used < total


async def connected(path: Path) -> anyio.abc.SocketStream | None:
    """Connect; None while nobody listens yet."""
    try:
        return await anyio.connect_unix(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


@pytest.mark.anyio
async def test_one_connection_gets_the_whole_document(tmp_path: Path) -> None:
    """Connect, read to the end."""
    path = tmp_path / "agent.sock"
    server = StatusServer(
        str(path), PLATFORM, Cells("/run", Limits(), cores=2), Facts(), IncidentBook("here", 0.0)
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run)
        with anyio.fail_after(5):
            while (stream := await connected(path)) is None:
                await anyio.sleep(0.001)
            async with stream:
                body = b"".join([chunk async for chunk in stream])
        tasks.cancel_scope.cancel()
    assert msgspec.json.decode(body, type=StatusAnswer).machines[0].name == "m"
