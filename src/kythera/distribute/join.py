"""A machine joins a fleet: the side that asks.

Promises: nothing of the machine's own state is touched before the fleet has said yes; a crash at any
moment can be repeated with the same token (the key it asks with is kept until all is written, and
the membership is written last). Every failure says what to do next.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
import msgspec

from kythera.distribute import membership
from kythera.distribute.authority import (
    belongs,
    fingerprint,
    make_key,
    make_request,
    refuse_bad_name,
)
from kythera.distribute.invitation import (
    MAKE_ANOTHER,
    Invitation,
    JoinAnswer,
    JoinRequest,
    Told,
    refuse_expired,
)
from kythera.distribute.mesh import MeshClient, PeerNotTrusted, PeerUnreachable, context_of
from kythera.ground.files import memfd_path, write_atomically, write_private
from kythera.ground.key_files import parse, read_keys
from kythera.ground.layout import Layout
from kythera.model.errors import Refusal, SetupError
from kythera.model.limits import Limits
from kythera.model.membership import Membership
from kythera.model.platform import Platform

PENDING_KEY = "joining.key"
T = TypeVar("T")
Standing = Literal["stranger", "joined", "member"]
"""`joined` with this very token; `member` in another way: it may have been removed since."""
Say = Callable[[str], None]


def standing(layout: Layout, invitation: Invitation) -> Standing:
    """Return what this folder is to the token's fleet. Raises SetupError when it is another's."""
    member = membership.read(layout)
    if member is None or not layout.ca_certificate.exists():
        return "stranger"
    ours = fingerprint(layout.ca_certificate.read_bytes())
    if ours != invitation.fingerprint:
        raise SetupError(
            f"{layout.state} belongs to another fleet (authority {ours[:16]}) than the token "
            f"({invitation.fingerprint[:16]}).",
            remedy="Choose another folder: --state DIR. Or start without --join.",
        )
    return "joined" if member.token == invitation.id else "member"


async def join(
    layout: Layout,
    invitation: Invitation,
    platform: Platform,
    facts: dict[str, Any],
    *,
    now: float,
    say: Say,
) -> JoinAnswer:
    """Ask to join and write what makes this folder a machine of the fleet.

    `facts` are cores, architecture, kythera and workerd. Raises SetupError."""
    refuse_bad_name(platform.machine)
    key = _pending_key(layout)
    request = JoinRequest(
        token=invitation.id,
        secret=invitation.secret,
        name=platform.machine,
        csr=make_request(key, platform.machine).decode(),
        site=platform.site,
        region=platform.region,
        world=platform.world,
        mesh=platform.mesh_advertised,
        api=platform.api,
        **facts,
    )
    try:
        answer = await _ask(layout, invitation, request, platform.limits, say)
    except SetupError:
        # Ours may be the clock that is wrong, so theirs is asked first; but a door does not say
        # why it stays shut.
        refuse_expired(invitation, now)
        raise
    _refuse_foreign(answer, invitation)
    _refuse_other_keys(answer, platform)
    _write(layout, answer, key, platform, invitation.id)
    return answer


def _pending_key(layout: Layout) -> bytes:
    """Return the key of this attempt: the same as of the last one, if that was cut short."""
    layout.fleet.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = layout.fleet / PENDING_KEY
    if not path.exists():
        write_private(path, make_key())
    return path.read_bytes()


async def _ask(
    layout: Layout, invitation: Invitation, request: JoinRequest, limits: Limits, say: Say
) -> JoinAnswer:
    with memfd_path(invitation.ca_pem) as ca, memfd_path(invitation.credentials) as credentials:
        client = MeshClient(layout, limits, lambda peer: context_of(ca, credentials, peer))
        async with client:
            failures: list[PeerUnreachable] = []
            for peer in invitation.peers:
                say(f"Asking {peer.name} at {peer.mesh} to join as {request.name!r} …")
                try:
                    response = await client.request(
                        peer.name, peer.mesh, "POST", "/join", content=_encoded(request)
                    )
                    return read_answer(response, JoinAnswer)
                except PeerUnreachable as error:
                    say(f"  {error.message}")
                    failures.append(error)
    raise _nobody(failures, invitation)


def _encoded(message: Any) -> bytes:
    return msgspec.json.encode(message)


def read_answer(response: httpx.Response, kind: type[T]) -> T:
    """Read another machine's answer. Raises Refusal with its reason when it says no, and
    PeerUnreachable when it cannot answer now."""
    if response.status_code in (502, 503, 504):
        told = _told(response)
        raise PeerUnreachable(f"it cannot answer now: {told.message}", remedy=told.remedy)
    if response.is_success:
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(response.content, type=kind)
    told = _told(response)
    raise Refusal(told.code, told.message, status=told.status, remedy=told.remedy)


def _told(response: httpx.Response) -> Told:
    try:
        return msgspec.json.decode(response.content, type=Told)
    except msgspec.MsgspecError:
        return Told(message=f"it answered HTTP {response.status_code}.")


def _nobody(failures: Sequence[PeerUnreachable], invitation: Invitation) -> SetupError:
    print_ = invitation.fingerprint[:16]
    if failures and all(isinstance(error, PeerNotTrusted) for error in failures):
        return SetupError(
            f"what answers is not the fleet that made this token (authority {print_}).",
            remedy=f"Something else took over those addresses, or a clock is wrong. {MAKE_ANOTHER}",
        )
    tried = ", ".join(f"{peer.name} at {peer.mesh}" for peer in invitation.peers) or "nobody"
    return SetupError(
        f"no core machine of the fleet could be reached ({tried}).",
        remedy="Check the network between the machines: that port must be open. If the fleet tells "
        "a wrong address, restart it with --advertise HOST:PORT and make another token.",
    )


def _refuse_foreign(answer: JoinAnswer, invitation: Invitation) -> None:
    ca = answer.ca.encode()
    if fingerprint(ca) != invitation.fingerprint or not belongs(answer.certificate.encode(), ca):
        raise SetupError(
            "the answer's authority is not the one the token names.", remedy=MAKE_ANOTHER
        )


def _refuse_other_keys(answer: JoinAnswer, platform: Platform) -> None:
    """Raise SetupError when the operator's file lacks a key that the fleet seals secrets with."""
    if not platform.secrets_key:
        return
    held = read_keys(Path(platform.secrets_key))
    if any(key not in held for key in parse(answer.secrets_key, "of the fleet")):
        raise SetupError(
            f"{platform.secrets_key} lacks a key that this fleet seals its secrets with.",
            remedy="Copy the file of another machine (`kythera key list` names the keys), or join "
            "without --secrets-key.",
        )


def _write(layout: Layout, answer: JoinAnswer, key: bytes, platform: Platform, token: str) -> None:
    if not platform.secrets_key:
        write_private(layout.secrets_key, answer.secrets_key.encode())
    if answer.shared:
        write_private(layout.shared, answer.shared.encode())
    else:
        layout.shared.unlink(missing_ok=True)  # of another fleet, perhaps
    write_private(layout.token, answer.api_token.encode())
    write_atomically(layout.ca_certificate, answer.ca.encode())
    write_private(layout.machine_certificate, answer.certificate.encode() + key)
    settings = msgspec.structs.replace(platform, account_id=answer.account_id, domain=answer.domain)
    write_private(layout.platform, msgspec.json.format(msgspec.json.encode(settings)))
    membership.write(layout, Membership(founder=False, peers=answer.peers, token=token))
    (layout.fleet / PENDING_KEY).unlink(missing_ok=True)
