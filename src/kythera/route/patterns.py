"""Cloudflare's route patterns: read, compared, and turned into rows of HAProxy's maps.

Pure. A pattern is `[http://|https://]host/path`; `*` may open the host (`*.a.b` for what is below
a.b, `*a.b` for any host that ends so, `*` for all) and may close the path. Hosts compare without
case, paths with it, and the query string belongs to the path, as on Cloudflare. Of several
patterns that match, the most specific wins: a whole host before a wildcard, a longer host before
a shorter, a whole path before an open one, a longer path before a shorter, one scheme before both.

Refused with `PatternError`: wildcards elsewhere, query strings, ports, blanks, non-ASCII text.
"""

import re
from dataclasses import dataclass
from typing import Literal

from kythera.model.errors import KytheraError
from kythera.model.names import is_hostname

Scheme = Literal["http", "https"]
SCHEMES: tuple[Scheme, ...] = ("http", "https")
PATTERN_BYTES_MAX = 1024
"""HAProxy's lines have 2 KiB; a key holds scheme, host and path."""

_PATH = re.compile(r"/[!-)+->@-~]*")
"""Visible ASCII without `*` and `?`."""
_REGEX_META = re.compile(r"([^A-Za-z0-9/_~!@%&=;:,'\"`<>-])")


class PatternError(KytheraError):
    """A route pattern that Cloudflare would not accept either."""


@dataclass(frozen=True)
class Pattern:
    """One route pattern, read. `host` lacks the opening `*`, `path` the closing one."""

    schemes: tuple[Scheme, ...]
    host: str
    host_open: bool
    path: str
    path_open: bool

    def matches(self, scheme: Scheme, host: str, path_query: str) -> bool:
        """Tell whether a request (its host already normalised) belongs to this pattern."""
        return scheme in self.schemes and self.matches_host(host) and self._matches_path(path_query)

    def matches_host(self, host: str) -> bool:
        """Tell whether requests for this host can belong to this pattern."""
        return host.endswith(self.host) if self.host_open else host == self.host

    def _matches_path(self, path_query: str) -> bool:
        if self.path_open:
            return path_query.startswith(self.path)
        return path_query == self.path

    def rank(self) -> tuple[bool, int, bool, int, int]:
        """Return a key that sorts the most specific pattern first."""
        return (
            self.host_open,
            -len(self.host),
            self.path_open,
            -len(self.path),
            len(self.schemes),
        )

    def lookups(self) -> list[str]:
        """Return `scheme://host/path` for each scheme: what maps of whole hosts look up."""
        assert not self.host_open
        return [f"{scheme}://{self.host}{self.path}" for scheme in self.schemes]

    def expression(self) -> str:
        """Return the regular expression (PCRE) that `scheme://host/path?query` must match."""
        scheme = self.schemes[0] if len(self.schemes) == 1 else "https?"
        host = ("[^/]*" if self.host_open else "") + _quoted(self.host)
        return f"^{scheme}://{host}{_quoted(self.path)}" + ("" if self.path_open else "$")


def _quoted(text: str) -> str:
    """Escape what means something to PCRE, and nothing else."""
    return _REGEX_META.sub(r"\\\1", text)


def parse_pattern(text: str) -> Pattern:
    """Read one pattern. Raises PatternError, whose text says which part is wrong."""
    if not text or len(text) > PATTERN_BYTES_MAX:
        raise _error(text, f"is empty or longer than {PATTERN_BYTES_MAX} characters")
    schemes, rest = _split_scheme(text)
    host, slash, path = rest.partition("/")
    path_open = path.endswith("*")
    if not slash and host.endswith("*") and host != "*":
        # "a.b*" is how people write "a.b/*"; a host cannot end in a wildcard.
        host, path_open = host[:-1], True
    return Pattern(
        schemes=schemes,
        host=_checked_host(text, host),
        host_open=host.startswith("*"),
        path=_checked_path(text, "/" + path.removesuffix("*")),
        path_open=path_open,
    )


def _split_scheme(text: str) -> tuple[tuple[Scheme, ...], str]:
    for scheme in SCHEMES:
        if text[: len(scheme) + 3].lower() == f"{scheme}://":
            return (scheme,), text[len(scheme) + 3 :]
    return SCHEMES, text


def _checked_host(text: str, host: str) -> str:
    name = host.lower().removesuffix(".").removeprefix("*")
    if ":" in name:
        raise _error(text, "names a port; routes serve the ports of the front door")
    if "*" in name:
        raise _error(text, "has a wildcard inside its host; `*` may only open it")
    # `*-x.example.com` and `*.example.com` are both allowed: complete them to a whole name.
    whole = name if not host.startswith("*") else f"x{name}"
    if not is_hostname(whole):
        raise _error(text, "has no valid hostname (non-ASCII names are written as xn--…)")
    return name


def _checked_path(text: str, path: str) -> str:
    if "*" in path:
        raise _error(text, "has a wildcard inside its path; `*` may only close it")
    if "?" in path:
        raise _error(text, "has a query string; patterns match it with a closing `*`")
    if _PATH.fullmatch(path) is None:
        raise _error(text, "has blanks or characters in its path that must be percent-encoded")
    return path


def _error(text: str, why: str) -> PatternError:
    return PatternError(
        f"Route pattern {text[:100]!r} {why}.",
        remedy="Write it as host/path, for example example.com/shop/* or *.example.com/*.",
    )
