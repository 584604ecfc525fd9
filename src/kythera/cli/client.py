"""The control API over HTTP, for the commands: one method for each call they make.

Promises: every failure is a KytheraError with a remedy. Never follows the machine's proxy
settings: the API is this machine's own.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import click
import httpx

from kythera.cli.command import NotRunning, platform_of
from kythera.ground.addresses import loopback
from kythera.ground.layout import Layout
from kythera.model.errors import Refusal, SetupError
from kythera.model.platform import Platform

API_TIMEOUT_S = 120.0
"""A deploy waits for the trial of its code and for the new cell; nothing waits longer."""
CONNECT_TIMEOUT_S = 5.0

REMEDIES = {
    10000: "The token in the state folder is not this platform's: is --state the right one?",
    10007: "See what there is: kythera worker list",
    10021: "Mend the code and deploy again; nothing was stored and the old version still serves.",
    10215: "Serve the newest version first: deploy again, or `kythera rollback NAME VERSION`.",
    10220: "Add --yes to serve that version with the secrets it had.",
    10027: "Make the bundle smaller, or raise the limit: kythera up --limit bundle_bytes_max=…",
}


def api_url(platform: Platform) -> str:
    """Return the API's base, as wrangler wants it."""
    return f"http://{loopback(platform.api)}/client/v4"


def worker_urls(platform: Platform, hostname: str) -> list[str]:
    """Return where a hostname of this platform is served: HTTPS first when there is a door."""
    urls = []
    if platform.https:
        urls.append(_origin("https", hostname, platform.https, "443"))
    urls.append(_origin("http", hostname, platform.http, "80"))
    return urls


def _origin(scheme: str, hostname: str, address: str, usual_port: str) -> str:
    port = address.rpartition(":")[2]
    return f"{scheme}://{hostname}" + ("" if port == usual_port else f":{port}") + "/"


class Client:
    """One platform's API, with its token."""

    def __init__(
        self, platform: Platform, token: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Open no connection yet; `transport` stands in for the network in tests."""
        self.platform = platform
        self.account = platform.account_id
        self._http = httpx.Client(
            base_url=api_url(platform),
            headers={"Authorization": f"Bearer {token}", "User-Agent": "kythera-cli"},
            timeout=httpx.Timeout(API_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        """Use as `with here.client() as client`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._http.close()

    def call(self, method: str, path: str, **request: Any) -> Any:
        """Make one call below `/accounts/<ours>` and return its `result`."""
        return self._call(method, str(PurePosixPath("/accounts", self.account)) + path, **request)

    def purge(self, asked: Mapping[str, Any]) -> Any:
        """Purge the cache; every zone is the account's."""
        return self._call("POST", f"/zones/{self.account}/purge_cache", json=dict(asked))

    def _call(self, method: str, url: str, **request: Any) -> Any:
        try:
            response = self._http.request(method, url, **request)
        except httpx.ConnectError as error:
            raise NotRunning(
                f"the API at {self.platform.api} does not answer.",
                remedy="Start the platform with `kythera up`, or ask `kythera doctor`.",
            ) from error
        except httpx.HTTPError as error:
            raise NotRunning(
                f"the API at {self.platform.api} broke off: {type(error).__name__}.",
                remedy="Ask `kythera status`, then try again.",
            ) from error
        return _result(response)

    def script(self, name: str, rest: str = "") -> str:
        """Return the path of a worker's script resource."""
        return f"/workers/scripts/{quote(name, safe='')}{rest}"


def _result(response: httpx.Response) -> Any:
    """Open Cloudflare's envelope; raise what it refuses."""
    if response.status_code == 204 or (response.is_success and not response.content):
        return None
    try:
        envelope = response.json()
        if not isinstance(envelope, dict):
            raise ValueError
    except ValueError:
        raise NotRunning(
            f"what answers at {response.url} is not Kythera's API (HTTP {response.status_code}).",
            remedy="Ask `kythera doctor`: another program may hold the port.",
        ) from None
    if envelope.get("success"):
        for told in envelope.get("messages") or []:
            sentence = told.get("message", told) if isinstance(told, dict) else told
            click.echo(f"Note: {sentence}", err=True)
        return envelope.get("result")
    raise _refusal(envelope.get("errors") or [], response.status_code)


def _refusal(errors: list[Any], status: int) -> Refusal:
    told = [error for error in errors if isinstance(error, dict)]
    code = int(told[0].get("code", 0)) if told else 0
    message = "\n".join(str(error.get("message", error)) for error in told)
    message = message or f"the API answered HTTP {status} without a reason."
    return Refusal(code, message, status=status, remedy=REMEDIES.get(code, ""))


def read_token(layout: Layout) -> str:
    """Read the platform's API token. Raises SetupError when it is missing or not ours to read."""
    try:
        return layout.token.read_text().strip()
    except FileNotFoundError:
        raise SetupError(
            f"no API token in {layout.state}.",
            remedy=f"Start the platform once: kythera up --state {layout.state}",
        ) from None
    except PermissionError:
        raise SetupError(
            f"{layout.token} belongs to another user.",
            remedy="Run this as the user who started the platform, or name your own --state.",
        ) from None


def connect(layout: Layout) -> Client:
    """Return a client of the platform whose state is in `layout`."""
    return Client(platform_of(layout), read_token(layout))
