"""What cells are given for dispatches: keys that lead to one namespace alone, and nothing in a trial."""

import json
from pathlib import Path
from typing import Any

from kythera.ground.passes import (
    namespace_key,
    outbound_key,
    outbound_mark,
    worker_mark,
)
from kythera.model.names import is_worker_anywhere, namespace_of, script_name, user_worker
from kythera.model.records import Binding, Version
from kythera.run.bindings import BindingContext, StoreDoors, stores_of
from kythera.run.bindings_dispatch import DISPATCHING, around_services, dispatch_value
from kythera.run.prelude import around_modules

DOORS = StoreDoors({"services": Path("/run/stores/services")}, "key")


def version(worker: str = "a", *bindings: Binding) -> Version:
    """Return a version with these bindings."""
    return Version(
        account="acc",
        worker=worker,
        id="v",
        number=1,
        created_on="",
        main_module="i.js",
        bindings=bindings,
    )


def bound(**fields: Any) -> Binding:
    """Return a binding to the namespace n."""
    given = {"namespace": "n", "namespace_id": "n", **fields}
    return Binding(name="D", type="dispatch_namespace", fields=given)


def context(of: Version, doors: StoreDoors | None = DOORS) -> BindingContext:
    """Return what bindings are made from."""
    return BindingContext(of, lambda _: b"", lambda _, __: "", doors)


def test_a_worker_s_name_says_its_namespace() -> None:
    """Goal: names go there and back, and no worker of the account can have such a one."""
    name = user_worker("n", "s")
    assert (namespace_of(name), script_name(name)) == ("n", "s")
    assert (namespace_of("s"), script_name("s")) == ("", "s")
    assert is_worker_anywhere(name)
    assert not any(map(is_worker_anywhere, ("~s", "n~", "n~s~t", "n~S x", "~")))


def test_a_namespace_s_key_makes_the_marks_of_its_workers_and_of_no_others() -> None:
    """Goal: another account, namespace or machine, the account's own worker of that name, and the same
    worker as an outbound one: each has another mark."""
    marks = {
        worker_mark("key", "acc", "n~s"),
        worker_mark("key", "acc", "m~s"),
        worker_mark("key", "b", "n~s"),
        worker_mark("other", "acc", "n~s"),
        worker_mark("key", "acc", "s"),
        outbound_mark("key", "acc", "n", "s"),
        outbound_mark("key", "acc", "m", "s"),
    }
    assert len(marks) == 7
    assert namespace_key("key", "acc", "n") != outbound_key("key", "acc", "n")


def test_a_binding_is_ours_before_a_worker_of_ours_with_the_namespace_s_key() -> None:
    """Goal: the key is told to the worker beside, not to the worker; parameters by name."""
    outbound = {"worker": {"service": "o"}, "params": [{"name": "p"}]}
    binding = bound(outbound=outbound)
    value, services, module = dispatch_value(binding, context(version("a", binding)))
    door, parameters = value["wrapped"]["innerBindings"]
    told = json.loads(door["service"]["props"]["json"])
    key = namespace_key("key", "acc", "n")
    assert told == {"namespace": "n", "key": key, "outbound": "o"}
    assert json.loads(parameters["json"]) == ["p"]
    assert module["internal"]
    assert [each["name"] for each in services] == ["dispatching/door", DISPATCHING]
    assert "services" in stores_of(version("a", binding))


def test_a_trial_dispatches_to_nobody() -> None:
    """Goal: top-level code of an upload reaches no worker, and no key is in its process."""
    value, (door, _), _ = dispatch_value(bound(), context(version("a", bound()), None))
    assert door["network"] == {"allow": []}
    assert "key" not in value["wrapped"]["innerBindings"][0]["service"]["props"]["json"]


def test_what_stands_around_a_namespace_s_worker_has_its_own_way_out() -> None:
    """Goal: the usual ways out stay, and beside them the key for outbound workers of this namespace."""
    usual = [
        {"name": "outbound", "worker": {"bindings": [{"name": "EGRESS"}]}},
        {"name": "egress", "external": {}},
    ]
    ours, egress, door = around_services(version("n~s"), usual, "worker", DOORS)
    names = {each["name"]: each for each in ours["worker"]["bindings"]}
    assert names.keys() == {"EGRESS", "WORKER", "DOOR", "OUTBOUND_KEY"}
    assert names["OUTBOUND_KEY"]["text"] == outbound_key("key", "acc", "n")
    assert (egress["name"], door["name"]) == ("egress", "dispatching/door")
    assert "services" in stores_of(version("n~s"))
    assert "services" not in stores_of(version("s"))


def test_what_runs_within_ours_has_ours_as_its_main_module() -> None:
    """Goal: the module that is listed first leads, by each of ours, to the prelude."""
    assert around_modules("p.js", []) == {}
    found = around_modules("p.js", ["kythera-told.js", "kythera-context.js"])
    assert next(iter(found)) == "1-kythera-around.js"
    assert '"./kythera-around.js"' in found["1-kythera-around.js"]
    assert '"./p.js"' in found["kythera-around.js"]
    assert {"kythera-told.js", "kythera-context.js"} <= found.keys()
