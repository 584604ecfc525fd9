"""Dispatch namespaces and their workers through the API, as a platform builder's program asks."""

import json
from typing import Any

import pytest

from kythera.model.records import Resource
from tests.control.tokens import bearer, is_forbidden, token
from tests.control.world import ACCOUNT, ROOT, World

pytestmark = pytest.mark.anyio
WORKERS = f"{ROOT}/accounts/{ACCOUNT}/workers"
NAMESPACES = f"{WORKERS}/dispatch/namespaces"
CODE = "export default { fetch() {} }"


async def made(world: World, name: str = "tenants") -> str:
    """Make a namespace; return its address."""
    await world.ok("POST", NAMESPACES, {"name": name})
    return f"{NAMESPACES}/{name}"
