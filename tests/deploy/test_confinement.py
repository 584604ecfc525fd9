"""What a worker asks to be confined to: read whole, or refused with the key's name."""

from typing import Any

import pytest

from kythera.deploy.confinement import confinement
from kythera.model.errors import Refusal
from kythera.model.limits import Limits
from kythera.model.records import Confinement

LIMITS = Limits(memory_mib_max=256)


def test_nothing_asked_is_the_platforms_own() -> None:
    """Frozen clocks and the public internet are what everybody has."""
    assert confinement(None, LIMITS) == confinement({}, LIMITS) == Confinement()


def test_everything_asked_is_kept() -> None:
    """Each key in its own field; hosts in lower case, each once."""
    asked = {
        "memory_mib": 64,
        "egress": ["API.example.org", "*.example.com:8443", "api.example.org"],
        "clocks": "running",
        "outbound_connections": 4,
        "queue_requests": 10,
    }
    assert confinement(asked, LIMITS) == Confinement(
        memory_mib=64,
        egress="hosts",
        egress_hosts=("api.example.org", "*.example.com:8443"),
        clocks="running",
        outbound_connections=4,
        queue_requests=10,
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["memory_mib"], "metadata.kythera"),
        ({"memory_mb": 64}, "'memory_mb', which is not known"),
        ({"memory_mib": 15}, "from 16 to 256"),
        ({"memory_mib": 257}, "from 16 to 256"),
        ({"memory_mib": True}, "from 16 to 256"),
        ({"subrequests": 50}, "'subrequests', which is not known"),
        ({"egress": "private"}, "public, none or"),
        ({"egress": [1]}, "a string"),
        ({"egress": ["https://example.org"]}, "no host"),
        ({"egress": ["*"]}, "no host"),
        ({"egress": ["a.example:0"]}, "no host"),
        ({"egress": ["h.example"] * 101}, "100 are the most"),
        ({"clocks": "slow"}, "frozen or running"),
    ],
)
def test_what_cannot_be_is_refused_by_name(asked: Any, said: str) -> None:
    """Goal: a limit that was misspelt or too large is never silently another."""
    with pytest.raises(Refusal, match=said):
        confinement(asked, LIMITS)
