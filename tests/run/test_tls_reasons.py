"""Why TLS failed is read from two lines of workerd's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.run.tls_reasons import WORDS_MAX, TlsReasons, sentence

LINE = "workerd/jsg/util.c++:320: error: e = rust/x.rs:270: failed: TLS handshake failed: "
STACK = "stack: /bin/workerd@4 /bin/workerd@6; sentryErrorContext = jsgInternalError; wdErrId = "


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            (
                'invalid peer certificate: certificate not valid for name "a.test"; certificate is '
                'only valid for DnsName("b.test")'
            ),
            "its certificate is for another name than a.test",
        ),
        (
            (
                "invalid peer certificate: certificate expired: verification time 2 (UNIX), but "
                "certificate is not valid after 1 (1 seconds ago)"
            ),
            "its certificate has expired",
        ),
        (
            "invalid peer certificate: UnknownIssuer",
            "its certificate is self-signed or of an authority that is not trusted",
        ),
        ("received corrupt message of type X", "received corrupt message of type X"),
    ],
)
def test_a_reason_is_said_in_plain_words(said: str, why: str) -> None:
    """Goal: what workerd 2026-11-17 prints is understood; what is unknown is its own words."""
    reasons = TlsReasons()
    assert reasons.take(LINE + said) is None
    assert reasons.take(STACK + "abc0123") == ("abc0123", why)


def test_lines_of_other_errors_are_no_reason() -> None:
    """Goal: a reference belongs to the line right before it alone."""
    reasons = TlsReasons()
    assert reasons.take(STACK + "abc") is None
    reasons.take(LINE + "x")
    assert reasons.take("another line") is None
    assert reasons.take(STACK + "abc") is None


@given(st.text())
def test_a_reason_is_bounded(text: str) -> None:
    """Goal: whatever a server makes workerd print, the sentence stays short."""
    assert len(sentence(text)) <= WORDS_MAX
