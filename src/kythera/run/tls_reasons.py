"""Why TLS with somebody outside failed, read from what the egress cell prints.

workerd tells its JavaScript `internal error; reference = X` of a failed handshake and why on its
standard error, with the same X. Pure. Promises a sentence for each reason it knows and workerd's own
words for any other; a line that looks otherwise, as another workerd may print it, is no reason.
"""

import re

FAILED = re.compile(r"TLS handshake failed: (?P<why>.+)")
REFERENCE = re.compile(r"^stack: .*wdErrId = (?P<reference>\w+)")
WORDS_MAX = 300
_SENTENCES = (
    (
        re.compile(r'certificate not valid for name "(?P<name>[^"]+)"'),
        "its certificate is for another name than {name}",
    ),
    (re.compile("certificate expired"), "its certificate has expired"),
    (re.compile("certificate not valid yet"), "its certificate is not valid yet"),
    (
        re.compile("UnknownIssuer|CaUsedAsEndEntity"),
        "its certificate is self-signed or of an authority that is not trusted",
    ),
)


class TlsReasons:
    """Pairs the line that has the reason with the one after it, which has the reference."""

    def __init__(self) -> None:
        self._why: str | None = None

    def take(self, line: str) -> tuple[str, str] | None:
        """Return the reference and the reason that this line completes."""
        failed = FAILED.search(line)
        if failed is not None:
            self._why = sentence(failed["why"])
            return None
        why, self._why = self._why, None
        named = REFERENCE.search(line)
        return None if why is None or named is None else (named["reference"], why)


def sentence(why: str) -> str:
    """Return a reason of rustls in plain words."""
    for pattern, words in _SENTENCES:
        found = pattern.search(why)
        if found is not None:
            return words.format(**found.groupdict())
    return why[:WORDS_MAX]
