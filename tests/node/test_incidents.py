"""What befalls cells: counted, the last of it kept, never more than so much."""

from hypothesis import given
from hypothesis import strategies as st

from kythera.node.incidents import INCIDENTS_KEPT, RAYS_KEPT, RAYS_S, IncidentBook

NOW = 1_795_000_000.0


def book() -> IncidentBook:
    """Return a book with one incident."""
    made = IncidentBook("here", NOW)
    made.note("a", "shop", "v1", "exceededCpu", NOW, detail="cpu_ms_max 50")
    return made


def test_an_incident_is_told_whole() -> None:
    """Goal: worker, version, reason, when, since when is counted."""
    (told,) = book().document()
    assert (told["worker"], told["machine"], told["counts"]) == ("shop", "here", {"exceededCpu": 1})
    assert told["since"].startswith("2026-11-")
    (last,) = told["last"]
    assert (last["reason"], last["version"], last["detail"]) == (
        "exceededCpu",
        "v1",
        "cpu_ms_max 50",
    )


def test_the_rays_of_requests_that_fail_with_it_are_its_own() -> None:
    """Goal: a visitor's ray id leads to the reason; an error of another time does not."""
    made = book()
    made.failed("a", "shop", "r1", NOW + 0.1)
    made.failed("a", "shop", "r1", NOW + 0.1)
    made.failed("a", "shop", "late", NOW + RAYS_S + 0.1)
    made.failed("a", "another", "r2", NOW)
    assert made.document()[0]["last"][0]["rays"] == ("r1",)


def test_workers_that_are_gone_are_forgotten() -> None:
    """Goal: memory is bounded by the workers there are."""
    made = book()
    made.keep({("a", "shop")})
    assert len(made.document()) == 1
    made.keep(set())
    assert made.document() == []


@given(st.lists(st.sampled_from(["exceededCpu", "crashed"]), max_size=60), st.integers(0, 60))
def test_everything_is_counted_and_only_the_last_is_kept(reasons: list[str], rays: int) -> None:
    """Goal: no flood of incidents grows. Method: any number of them, and of failed requests."""
    made = IncidentBook("here", NOW)
    for reason in reasons:
        made.note("a", "shop", "v", reason, NOW)
    made.add("a", "shop", "logsDropped", 7)
    for number in range(rays):
        made.failed("a", "shop", f"ray{number}", NOW)
    (told,) = made.document()
    assert sum(told["counts"].values()) == len(reasons) + 7
    assert len(told["last"]) == min(len(reasons), INCIDENTS_KEPT)
    assert all(len(one["rays"]) <= RAYS_KEPT for one in told["last"])
