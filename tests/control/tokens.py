"""Calls with API tokens, for tests: made by the root token, used as somebody would."""

from typing import Any

import httpx

from tests.control.world import ACCOUNT, ROOT, World

TOKENS = f"{ROOT}/accounts/{ACCOUNT}/tokens"
LOGS = f"{ROOT}/accounts/{ACCOUNT}/audit_logs"


async def token(world: World, *scopes: str, name: str = "ci", **more: Any) -> str:
    """Make a token and return its text."""
    body = {"name": name, "scopes": list(scopes), **more}
    made: dict[str, Any] = await world.ok("POST", TOKENS, body)
    return str(made["value"])


def bearer(text: str) -> dict[str, str]:
    """Return the header that presents a token."""
    return {"authorization": f"Bearer {text}"}


def is_forbidden(response: httpx.Response) -> bool:
    """Tell whether a call was refused for what its token may not."""
    if response.status_code != 403:
        return False
    (error,) = response.json()["errors"]
    return error["code"] == 10000 and "kythera api-token create" in error["message"]


async def logs(world: World, **asked: Any) -> list[dict[str, Any]]:
    """Return what the audit says, oldest first."""
    found: list[dict[str, Any]] = await world.ok("GET", LOGS, params={"direction": "asc", **asked})
    return found
