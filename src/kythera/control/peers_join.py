"""Other machines ask to belong: to join, to renew a certificate, to hold the authority.

Promises: a token is used by the first of two machines that ask at once, and the other is refused;
the record of the machine is there before its certificate is given away. Only machines that the
records name as core are given the authority's key.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kythera.control.join_tokens import make_for_peer
from kythera.control.peer_answers import (
    layout_of,
    member_of,
    passed_on,
    peer_of,
    question,
    reply,
    told,
    up_to_date,
)
from kythera.control.services import Services, services_of
from kythera.control.store import Change, put
from kythera.distribute.admission import (
    CODE,
    Refused,
    core_peers,
    is_core,
    is_repeat,
    machine_of,
    refuse,
    released,
    used,
)
from kythera.distribute.authority import JOINER, issue, key_digest
from kythera.distribute.invitation import (
    AuthorityAnswer,
    JoinAnswer,
    JoinRequest,
    RenewAnswer,
    RenewRequest,
)
from kythera.ground.clock import iso
from kythera.ground.key_files import key_files, render
from kythera.ground.shared_secrets import shared_text
from kythera.model.errors import Refusal, StoreUnavailable
from kythera.model.records import Token


@told
async def join(request: Request) -> Response:
    """POST /join: a machine with a token becomes one of the fleet."""
    services = services_of(request)
    asked = await question(request, JoinRequest)
    name = peer_of(request)
    if name != JOINER + asked.token and services.store.catalog().machine(name) is None:
        raise Refused("the token's certificate and its content do not belong together.")
    if not layout_of(services).ca_key.exists():
        body = msgspec.json.encode(asked)
        return Response(await passed_on(services, request, "/join", body))
    await admit(services, asked)
    return reply(_welcome(services, asked))


async def admit(services: Services, asked: JoinRequest) -> None:
    """Use the token and write the machine's record, or raise Refused."""
    key = key_digest(asked.csr.encode())
    if f"token.{asked.token}" not in services.store.catalog().records:
        await up_to_date(services)  # it may have been made elsewhere a moment ago

    async def decide() -> None:
        catalog = services.store.catalog()
        token = catalog.records.get(f"token.{asked.token}")
        machine = catalog.machine(asked.name)
        try:
            refuse(asked, key, catalog, services.clock.now())
        except Refused:
            if isinstance(token, Token) and released(token, asked, key, machine):
                await services.store.write([put(msgspec.structs.replace(token, used_by=""))])
            raise
        assert isinstance(token, Token), "refused otherwise"
        changes: list[Change] = []
        if not is_repeat(token, asked, key, machine):
            changes.append(put(used(token, asked, key)))
        if machine is None:
            changes.append(put(machine_of(asked, iso(services.clock.now()))))
        await services.store.write(changes)

    await services.store.settled(f"token.{asked.token}", decide)
    services.journal.say("machine_joined", machine=asked.name, site=asked.site, token=asked.token)


def _welcome(services: Services, asked: JoinRequest) -> JoinAnswer:
    layout = layout_of(services)
    return JoinAnswer(
        certificate=_certificate(services, asked.name, asked.csr),
        ca=layout.ca_certificate.read_text(),
        secrets_key=render(key_files(layout, services.platform).read()),
        shared=shared_text(layout),
        api_token=services.token,
        account_id=services.account,
        domain=services.platform.domain,
        peers=core_peers(services.store.catalog()),
    )


def _certificate(services: Services, name: str, csr: str) -> str:
    layout = layout_of(services)
    return issue(
        layout.ca_certificate.read_bytes(),
        layout.ca_key.read_bytes(),
        name,
        csr.encode(),
        services.clock.now(),
        services.platform.limits.certificate_life_s,
    ).decode()


@told
async def renew(request: Request) -> Response:
    """POST /renew: a machine's next certificate, for the name in its present one alone."""
    services = services_of(request)
    name = member_of(request)
    asked = await question(request, RenewRequest)
    if not layout_of(services).ca_key.exists():
        raise StoreUnavailable(f"{services.platform.machine!r} does not hold the authority.")
    services.journal.say("certificate_renewed", machine=name)
    return reply(RenewAnswer(certificate=_certificate(services, name, asked.csr)))


@told
async def authority(request: Request) -> Response:
    """GET /authority: the authority's key, for a machine that the records name as core."""
    services = services_of(request)
    name = member_of(request)
    if not is_core(services.store.catalog(), name):
        raise Refusal(CODE, f"{name!r} is not a core machine.", status=403)
    layout = layout_of(services)
    if not layout.ca_key.exists():
        raise StoreUnavailable(f"{services.platform.machine!r} does not hold the authority.")
    services.journal.say("authority_shared", machine=name)
    return reply(AuthorityAnswer(key=layout.ca_key.read_text()))


@told
async def authority_held(request: Request) -> Response:
    """GET /authority/held: 200 when this machine holds the authority's key, else 503."""
    services = services_of(request)
    member_of(request)
    if not layout_of(services).ca_key.exists():
        raise StoreUnavailable(f"{services.platform.machine!r} does not hold the authority.")
    return Response(status_code=200)


def routes() -> list[Route]:
    """Return what other machines may ask of this part."""
    return [
        Route("/join", join, methods=["POST"]),
        Route("/renew", renew, methods=["POST"]),
        Route("/tokens", make_for_peer, methods=["POST"]),
        Route("/authority", authority, methods=["GET"]),
        Route("/authority/held", authority_held, methods=["GET"]),
    ]
