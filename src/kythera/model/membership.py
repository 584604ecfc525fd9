"""How a machine came into its fleet: one small private file, written when it is founded or joins."""

from msgspec import Struct


class Peer(Struct, frozen=True, kw_only=True):
    """A machine to ask: its name, and where its mesh door is (`host:port`)."""

    name: str
    mesh: str


class Membership(Struct, frozen=True, kw_only=True):
    """`founder`: this machine began the fleet and holds its log until Core records say otherwise.

    `peers` are core machines as of the last change; whom to ask while the copy is still empty."""

    founder: bool
    peers: tuple[Peer, ...] = ()
    token: str = ""
    """Id of the token with which it joined; empty for the founder."""
