"""Who may join: rules over records. Pure; the records are read, and written with guards, by others.

Promises: a token is used once, by one machine; that machine alone may ask again with it (its answer
got lost), until it is removed. A name belongs to one machine at a time.
"""

from datetime import datetime

import msgspec

from kythera.distribute.authority import refuse_bad_name
from kythera.distribute.invitation import MAKE_ANOTHER, JoinRequest, secret_fits
from kythera.ground.sockets import parse_address
from kythera.model.catalog import Catalog
from kythera.model.errors import KytheraError, Refusal
from kythera.model.membership import Peer
from kythera.model.records import Machine, Token

CODE = 10314
LABEL_CHARACTERS_MAX = 64


class Refused(Refusal):
    """A machine that may not join."""

    def __init__(self, message: str, *, remedy: str = MAKE_ANOTHER, status: int = 403) -> None:
        super().__init__(CODE, message, status=status, remedy=remedy)


def seconds_of(moment: str) -> float:
    """Return a record's time (RFC 3339) as Unix seconds."""
    return datetime.fromisoformat(moment).timestamp()


def expired(token: Token, now: float) -> bool:
    """Tell whether a token's time is over."""
    return now >= seconds_of(token.expires_on)


def is_repeat(token: Token, request: JoinRequest, key: str, machine: Machine | None) -> bool:
    """Tell whether this is the machine that used the token, asking again."""
    same = token.used_by == request.name and token.used_key == key
    return same and (machine is None or machine.token == token.id)


def refuse(request: JoinRequest, key: str, catalog: Catalog, now: float) -> None:
    """Raise Refused unless the machine may join by these records. `key` is its key's digest."""
    token = catalog.records.get(f"token.{request.token}")
    if not isinstance(token, Token) or not secret_fits(request.secret, token.secret_digest):
        raise Refused("this token is not, or no longer, known to the fleet.")
    if expired(token, now):
        raise Refused(f"the token expired at {token.expires_on}.")
    refuse_bad_facts(request)
    machine = catalog.machine(request.name)
    if is_repeat(token, request, key, machine):
        return
    if token.used_by and not (token.used_by == request.name and token.used_key == key):
        raise Refused(f"the token was used up by the machine {token.used_by!r}: it is good once.")
    if machine is not None:
        raise Refused(
            f"there is a machine {request.name!r} in the fleet already.",
            remedy="Choose another name: --machine NAME. If it is this very machine, set up anew: "
            f"kythera machine remove {request.name}, on one of the others.",
            status=409,
        )


def refuse_bad_facts(request: JoinRequest) -> None:
    """Raise Refused for what a machine may not say of itself."""
    try:
        refuse_bad_name(request.name)
        parse_address(request.mesh)
    except KytheraError as error:
        raise Refused(error.message, remedy=error.remedy, status=400) from None
    for option, text in (
        ("--site", request.site),
        ("--region", request.region),
        ("--world", request.world),
    ):
        if not is_label(text) and not (text == "" and option != "--site"):
            raise Refused(
                f"{text[:80]!r} cannot be the value of {option}.",
                remedy="Take up to 64 letters, digits, spaces and . _ - of any alphabet.",
                status=400,
            )


def is_label(text: str) -> bool:
    """Tell whether a text can name a site, region or world."""
    fits = 0 < len(text) <= LABEL_CHARACTERS_MAX
    return fits and all(c.isalnum() or c in " ._-" for c in text)


def used(token: Token, request: JoinRequest, key: str) -> Token:
    """Return the token as it is once a machine has used it."""
    return msgspec.structs.replace(token, used_by=request.name, used_key=key)


def released(token: Token, request: JoinRequest, key: str, machine: Machine | None) -> bool:
    """Tell whether a token was used for a name that another machine got at the same moment: it is
    good again."""
    ours = token.used_by == request.name and token.used_key == key
    return ours and machine is not None and machine.token != token.id


def machine_of(request: JoinRequest, joined_on: str) -> Machine:
    """Return the record of a machine that joins."""
    return Machine(
        name=request.name,
        site=request.site,
        region=request.region,
        world=request.world,
        mesh=request.mesh,
        api=request.api,
        cores=request.cores,
        architecture=request.architecture,
        kythera=request.kythera,
        workerd=request.workerd,
        joined_on=joined_on,
        token=request.token,
    )


def core_peers(catalog: Catalog) -> tuple[Peer, ...]:
    """Return the core machines and where they are reached, by name."""
    core = catalog.core()
    names = core.machines if core else tuple(m.name for m in catalog.machines() if m.core)
    found = (catalog.machine(name) for name in sorted(names))
    return tuple(Peer(name=machine.name, mesh=machine.mesh) for machine in found if machine)


def is_core(catalog: Catalog, name: str) -> bool:
    """Tell whether a machine holds the log."""
    return any(peer.name == name for peer in core_peers(catalog))
