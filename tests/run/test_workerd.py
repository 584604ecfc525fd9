"""Finding workerd: beside the package, or where the operator says; a sentence when it is not."""

from pathlib import Path

import pytest

from kythera.ground import meters
from kythera.model.errors import SetupError
from kythera.run.workerd import (
    OVERRIDE,
    ca_available,
    find_schema,
    find_workerd,
    hold_binary,
    workerd_argv,
    workerd_version,
)
from tests.run.starting import Workshop


def test_a_binary_of_ones_own_comes_with_its_own_schema(tmp_path: Path) -> None:
    """Goal: KYTHERA_WORKERD inside of an npm installation is enough."""
    binary = tmp_path / "@cloudflare" / "workerd-linux-64" / "bin" / "workerd"
    schema = tmp_path / "workerd" / "workerd.capnp"
    for path in (binary, schema):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    told = {OVERRIDE: str(binary)}
    assert (find_workerd(told), find_schema(told)) == (binary, schema)


def test_what_is_not_there_is_said_with_what_to_do(tmp_path: Path) -> None:
    """Goal: the set-up is one command away."""
    with pytest.raises(SetupError, match=r"workerd is not at .*make setup"):
        find_workerd({OVERRIDE: str(tmp_path / "workerd")})


def test_authorities_are_looked_for_where_workerd_looks(tmp_path: Path) -> None:
    """Goal: SSL_CERT_FILE, if set, is the only place."""
    bundle = tmp_path / "bundle.pem"
    assert not ca_available({"SSL_CERT_FILE": str(bundle)})
    bundle.touch()
    assert ca_available({"SSL_CERT_FILE": str(bundle)})


def test_the_command_line_takes_descriptors_or_placeholders() -> None:
    """Goal: the keeper fills in the numbers."""
    argv = workerd_argv({"http": "{socket:c1}"}, "{control}")
    assert argv[0] == "serve"
    assert argv[argv.index("--socket-fd") + 1] == "http={socket:c1}"
    assert argv[argv.index("--control-fd") + 1] == "{control}"
    assert argv[-1] == "-"


@pytest.mark.real
@pytest.mark.anyio
async def test_the_pinned_binary_tells_its_version() -> None:
    """Goal: status shows which engine runs."""
    assert (await workerd_version(find_workerd())).startswith("20")


@pytest.mark.real
@pytest.mark.anyio
async def test_an_idle_cell_has_little_memory_of_its_own(workshop: Workshop) -> None:
    """Goal: what a hello-world cell adds to the machine stays below 15 MB, while the program's
    own pages are held by somebody else as well."""
    version = workshop.worker("export default { fetch() { return new Response('hello'); } };")
    with hold_binary(find_workerd()):
        async with workshop.cell(version) as cell:
            assert (await cell.get()).text == "hello"
            assert 0 < meters.private_bytes(cell.process.working_pid) < 15e6
