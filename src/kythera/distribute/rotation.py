"""A machine's certificate is renewed long before it ends, without a restart.

`renew_when_due` asks a core machine (or signs itself, where the authority's key is) and replaces
`machine.pem` in one step: whoever uses it looks whether the file has changed. Promises: while nobody
renews it, the old certificate stays.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import httpx
import msgspec

from kythera.distribute.authority import (
    belongs,
    lacks_services,
    life_of,
    make_key,
    make_request,
    own_name,
    renew_own,
    renewal_due,
)
from kythera.distribute.invitation import RenewAnswer, RenewRequest
from kythera.distribute.join import read_answer
from kythera.distribute.mesh import PeerUnreachable
from kythera.ground.files import write_private
from kythera.ground.layout import Layout
from kythera.model.errors import KytheraError
from kythera.model.limits import Limits
from kythera.model.membership import Peer

OLDER_S = 3_600.0
"""How old a certificate is at least that is renewed because its maker knew fewer services."""


class Asks(Protocol):
    """What asks other machines (`MeshClient`)."""

    async def request(
        self, peer: str, recorded: str, method: str, path: str, **more: Any
    ) -> httpx.Response:
        """Ask a machine and return its whole answer. Raises PeerUnreachable."""
        ...


async def renew_when_due(
    layout: Layout,
    client: Asks,
    peers: Sequence[Peer],
    limits: Limits,
    now: float,
) -> bool:
    """Renew this machine's certificate if it is time; tell whether it was renewed.

    `peers` are the core machines. Raises KytheraError when it is time and nobody renewed it."""
    certificate = layout.machine_certificate.read_bytes()
    life = life_of(certificate)
    due = renewal_due(life, now, limits.certificate_renew_share)
    # Who signs may be older than this machine: it is not asked again and again.
    older = now >= life.begins + OLDER_S and lacks_services(certificate)
    if not due and not older:
        return False
    name = own_name(layout)
    assert name is not None, "it was read just now"
    if layout.ca_key.exists():
        renew_own(layout, name, now, limits.certificate_life_s)
        return True
    key = make_key()
    answer = await _ask(client, peers, make_request(key, name))
    fresh = answer.certificate.encode()
    if not belongs(fresh, layout.ca_certificate.read_bytes()):
        raise KytheraError("the renewed certificate is not by this fleet's authority.")
    write_private(layout.machine_certificate, fresh + key)
    return True


async def _ask(client: Asks, peers: Sequence[Peer], request: bytes) -> RenewAnswer:
    error: KytheraError = PeerUnreachable("no core machine is known here.")
    body = msgspec.json.encode(RenewRequest(csr=request.decode()))
    for peer in peers:
        try:
            response = await client.request(peer.name, peer.mesh, "POST", "/renew", content=body)
            return read_answer(response, RenewAnswer)
        except KytheraError as refused:
            error = refused
    raise error
