"""D1's process and a cell's way to it, as configurations."""

from pathlib import Path
from typing import Any

import pytest

from kythera.deploy.bindings_d1 import database_id
from kythera.ground.passes import check
from kythera.model.catalog import Catalog
from kythera.model.errors import Refusal
from kythera.model.records import Binding, Resource, Version
from kythera.run.bindings import BindingContext, Made, StoreDoors, made, stores_of
from kythera.run.config import schema
from kythera.run.databases import databases_config
from kythera.run.store_config import StoreView

ID = "0f9a1c5e-27c1-4d3e-9d1b-6f3c6f8f2b11"
VIEW = StoreView(
    disk=Path("/data"), key="k", limits={"d1_database_bytes_max": 5, "store_heap_mib_max": 1}
)
DOORS = StoreDoors({"d1": Path("/run/stores/d1")}, "k")


def one(flags: tuple[str, ...] = (), stores: StoreDoors | None = DOORS) -> Made:
    """Return the binding of a version to a database."""
    binding = Binding(name="DB", type="d1", fields={"id": ID})
    version = Version(
        account="a",
        worker="w",
        id="v",
        number=1,
        created_on="",
        bindings=(binding,),
        compatibility_flags=flags,
    )
    assert stores_of(version) == {"d1"}
    return made(binding, BindingContext(version, lambda _: b"", lambda _, __: "", stores))


def test_a_cell_shows_its_pass_to_one_database() -> None:
    """Goal: workerd's own binding over the store's socket, and a pass that names the database."""
    found = one()
    (service,) = found.services
    assert found.value["wrapped"]["moduleName"] == "cloudflare-internal:d1-api"
    (inner,) = found.value["wrapped"]["innerBindings"]
    assert inner == {"name": "fetcher", "service": {"name": service["name"]}}
    assert service["external"]["address"] == "unix:/run/stores/d1"
    (header,) = service["external"]["http"]["injectRequestHeaders"]
    granted = check(header["value"], "k", "d1")
    assert (granted.account, granted.worker, granted.resource) == ("a", "w", ID)


def test_a_trial_reaches_no_database() -> None:
    """Goal: code that is tried cannot write."""
    (service,) = one(stores=None).services
    assert service["network"] == {"allow": []}


def test_the_flag_for_rpc_is_refused_with_a_database() -> None:
    """Goal: by name, at the upload, not at the first call."""
    with pytest.raises(Refusal, match="d1_binding_jsrpc is not offered with D1"):
        one(("d1_binding_jsrpc",))


def test_without_a_database_there_is_no_process() -> None:
    """Goal: nothing runs that nobody needs; what other types there are does not count."""
    catalog = Catalog()
    assert databases_config(catalog, VIEW) is None
    record = Resource(account="a", type="r2_bucket", id="b", name="b", created_on="")
    catalog.records[record.key()] = record
    assert databases_config(catalog, VIEW) is None


def test_one_configuration_is_for_all_databases() -> None:
    """Goal: a second database needs no restart. Method: the same bytes, which workerd can read."""
    catalog = Catalog()
    configs: list[Any] = []
    for name in ("one", "two"):
        record = Resource(account="a", type="d1", id=name, name=name, created_on="")
        catalog.records[record.key()] = record
        configs.append(databases_config(catalog, VIEW))
    assert configs[0] == configs[1]
    with schema().Config.from_bytes(configs[0]) as config:
        assert [socket.name for socket in config.sockets] == ["http", "pulse"]
        worker = config.services[2].worker
        assert [each.name for each in worker.modules] == ["databases.js", "bundled-d1.js"]
        assert worker.bindings[2].json == '{"d1_database_bytes_max": 5}'


@pytest.mark.parametrize("fields", [{}, {"id": 7}, {"id": ""}, {"id": "../x"}, {"id": None}])
def test_a_binding_names_a_database_by_its_id(fields: dict[str, Any]) -> None:
    """Goal: a clear refusal, for what wrangler would send too."""
    with pytest.raises(Refusal, match="of type d1 must have a valid `id` specified"):
        database_id("DB", fields)
    assert database_id("DB", {**fields, "id": ID}) == ID
