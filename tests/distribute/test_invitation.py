"""The line that is printed and typed: whole, or refused with a word."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.distribute.authority import (
    der_of,
    fingerprint,
    issue_joiner,
    make_authority,
    make_key,
    number_of_key,
)
from kythera.distribute.invitation import (
    PREFIX,
    Invitation,
    decode,
    digest,
    encode,
    refuse_expired,
    secret_fits,
)
from kythera.model.errors import SetupError
from kythera.model.membership import Peer

NOW = 1_795_000_000
CA, CA_KEY = make_authority(NOW, "test")
KEY = make_key()
INVITATION = Invitation(
    id="0123456789ab",
    secret="s" * 40,
    expires_at=NOW + 3_600,
    fingerprint=fingerprint(CA),
    ca=der_of(CA),
    peers=(Peer(name="a", mesh="10.0.0.1:7443"), Peer(name="b", mesh="[fd00::2]:7443")),
    certificate=der_of(issue_joiner(CA, CA_KEY, "0123456789ab", KEY, NOW, 3_600)),
    key=number_of_key(KEY),
)
LINE = encode(INVITATION)


def test_a_line_carries_everything_there_and_back() -> None:
    """Goal: nothing else is needed. Method: encode, decode, compare; PEM as TLS wants it."""
    assert decode(LINE) == INVITATION
    assert INVITATION.ca_pem == CA
    assert INVITATION.credentials.endswith(KEY)
    assert LINE.startswith(PREFIX)
    assert len(LINE) < 2_000, "it is typed into a shell"


def test_a_line_survives_being_wrapped() -> None:
    """Goal: a line copied out of a mail works. Method: break it into pieces with blanks."""
    pieces = [LINE[i : i + 70] for i in range(0, len(LINE), 70)]
    assert decode("  \n " + "\n  ".join(pieces) + "\n") == INVITATION


@given(st.integers(0, len(LINE) - 1), st.sampled_from("AZaz09-_.!"))
def test_a_line_with_one_wrong_character_is_refused(at: int, character: str) -> None:
    """Goal: a damaged line is told from a refused one. Method: change any one character."""
    changed = LINE[:at] + character + LINE[at + 1 :]
    if changed == LINE:
        return
    with pytest.raises(SetupError, match=r"not a whole token|another version"):
        decode(changed)


@pytest.mark.parametrize("carried", range(3))
def test_one_line_alone_means_an_invitation(carried: int) -> None:
    """Goal: no other text is the same token. Method: lines of each length, every last character."""
    line = encode(msgspec.structs.replace(INVITATION, id="i" * (12 + carried)))
    assert decode(line).id == "i" * (12 + carried)
    for last in set(string.ascii_letters + string.digits + "-_") - {line[-1]}:
        with pytest.raises(SetupError, match="not a whole token"):
            decode(line[:-1] + last)


@given(st.integers(0, len(LINE) - 1))
def test_a_line_that_was_cut_is_refused(length: int) -> None:
    """Goal: half a copy is said. Method: any beginning of the line."""
    with pytest.raises(SetupError, match=r"Copy all of it|another version"):
        decode(LINE[:length])


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text: str) -> None:
    """Goal: no crash on what people type. Method: any text."""
    with pytest.raises(SetupError):
        decode(text)


def test_a_line_of_another_form_names_the_reason() -> None:
    """Goal: versions side by side. Method: a later prefix."""
    with pytest.raises(SetupError, match="another version of Kythera"):
        decode("kythera2." + LINE.removeprefix(PREFIX))


def test_a_fingerprint_that_does_not_fit_its_authority_is_refused() -> None:
    """Goal: the two never differ. Method: another fleet's authority under our fingerprint."""
    other, _ = make_authority(NOW, "other")
    with pytest.raises(SetupError, match="not a whole token"):
        decode(encode(msgspec.structs.replace(INVITATION, ca=der_of(other))))


def test_a_line_ends_with_its_time() -> None:
    """Goal: expired is said before anything is asked. Method: a moment before and at the end."""
    refuse_expired(INVITATION, NOW + 3_599)
    with pytest.raises(SetupError, match="expired 0 minutes ago"):
        refuse_expired(INVITATION, NOW + 3_600)


def test_a_secret_is_kept_as_its_digest_alone() -> None:
    """Goal: records tell no secret. Method: compare right and wrong ones."""
    assert secret_fits("x", digest("x"))
    assert not secret_fits("y", digest("x"))
    assert "x" not in digest("x")
