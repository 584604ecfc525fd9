"""What our door of queues knows of workerd's own: statements that it makes one of many of."""

import mmap
import re
from pathlib import Path

from kythera.run import prelude
from kythera.run.workerd import find_workerd

ENGINE_BYTES_MAX = 64 * 1024


def _engine() -> str:
    """Return the engine's text, as it is in workerd."""
    with Path(find_workerd()).open("rb") as file:
        binary = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = binary.find(b"class QueueShard extends")
        assert found > 0, "this workerd has no queues"
        text: bytes = binary[found : found + ENGINE_BYTES_MAX]
    return text.partition(b"\0")[0].decode()


def _in_one(text: str) -> str:
    """Return a script with those of its texts in one piece that are written in several."""
    return re.sub(r"'\s*\+\s*['`]", "", text)


def test_the_engine_says_what_we_gather_in_these_words() -> None:
    """Goal: a workerd whose statements have other words does not make queues slow unseen."""
    engine = _in_one(_engine())
    ours = dict(re.findall(r"const ([A-Z]+) = '([^']+)';", prelude.source("gathered.js")))
    delete, where = ours["DELETE"].removesuffix(" RETURNING size").split(" WHERE ")
    assert f"'{ours['INSERT']}'" in engine
    assert ours["LEASE"] in engine
    assert f"{delete} WHERE ${{where}} RETURNING size" in engine
    assert f"'{where}'" in engine
