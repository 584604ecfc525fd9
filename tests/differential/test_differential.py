"""The same workers, asked the same, on `wrangler dev` and on Kythera: where they differ it is known why."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.differential.cases import Case, Difference, Request, argued, cases
from tests.differential.compare import Answer, Found, differences
from tests.differential.dev import wrangler_dev
from tests.platforms import RunningPlatform
from tests.wranglers import VERSIONS, Wrangler, write_project

NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
ANSWER_S_MAX = 20.0


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`wrangler dev` with all of them."""
    with wrangler_dev(cases(), NEWEST, tmp_path_factory.mktemp("dev")) as address:
        yield address


def ask(url: str, host: str, request: Request) -> Answer:
    """Ask one of the two."""
    headers = {"host": host, "accept-encoding": "identity", **request.headers}
    with httpx.Client(trust_env=False, timeout=ANSWER_S_MAX) as client:
        client.headers.clear()
        answer = client.request(
            request.method, url, headers=headers, content=request.content, follow_redirects=False
        )
        found = [(name.lower(), value) for name, value in answer.headers.multi_items()]
        return Answer(answer.status_code, tuple(found), answer.content)


def unargued(case: Case, request: Request, found: list[Found]) -> list[Found]:
    """Return the differences that nobody has argued."""
    return [one for one in found if not any(d.covers(*one) for d in of(case, request))]


def of(case: Case, request: Request) -> list[Difference]:
    """Return what is argued about one request."""
    return [d for d in argued() if d.case == case.name and d.request in (str(request), "*")]


def deploy(platform: RunningPlatform, case: Case, folder: Path) -> None:
    """Deploy a worker; wrangler makes what it needs beside its variables."""
    if set(case.config) - {"vars"}:
        project = write_project(folder / "project", case.wrangler())
        (folder / "home").mkdir()
        Wrangler(NEWEST, platform, folder / "home").do("deploy", project=project)
        return
    bindings = [
        {"name": name, "type": "plain_text", "text": value}
        if isinstance(value, str)
        else {"name": name, "type": "json", "json": value}
        for name, value in case.config.get("vars", {}).items()
    ]
    configured = case.wrangler()
    platform.upload(
        case.name,
        case.source.read_text(encoding="utf-8"),
        compatibility_date=configured["compatibility_date"],
        compatibility_flags=configured["compatibility_flags"],
        bindings=bindings,
    )


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.name))
def test_a_worker_answers_as_under_wrangler_dev(
    case: Case, there: str, platform: RunningPlatform, tmp_path: Path
) -> None:
    """Each request of its script: status, headers and body; what differs is argued."""
    deploy(platform, case, tmp_path)
    host = f"{case.name}.{platform.domain}"
    surprises = []
    for request in case.requests:
        mine = ask(f"{platform.http}{request.path}", host, request)
        theirs = ask(f"{there}/{case.name}{request.path}", host, request)
        found = differences(mine, theirs)
        surprises += [(str(request), *one) for one in unargued(case, request, found)]
    assert not surprises, "\n".join(
        f"{request}: {part}\n  here  {here!r}\n  there {their!r}"
        for request, part, here, their in surprises
    )


def test_each_argument_names_a_request_that_is_made() -> None:
    """No argument outlives what it was about."""
    made = {(case.name, str(request)) for case in cases() for request in case.requests}
    made |= {(case.name, "*") for case in cases()}
    assert [d for d in argued() if (d.case, d.request) not in made or not d.why] == []


@pytest.mark.parametrize(
    ("here", "there", "part"),
    [
        (Answer(200, (), b"a"), Answer(201, (), b"a"), "status"),
        (Answer(200, (("x", "1"),), b""), Answer(200, (), b""), "header x"),
        (Answer(200, (("x", "1"), ("x", "2")), b""), Answer(200, (("x", "2"),), b""), "header x"),
        (Answer(200, (), b"a"), Answer(200, (), b"b"), "body"),
        (Answer(200, (), b'{"a":1,"b":2}'), Answer(200, (), b'{"b":2,"a":2}'), "body a"),
    ],
)
def test_a_difference_is_found(here: Answer, there: Answer, part: str) -> None:
    """The comparison bites."""
    assert [found for found, _, _ in differences(here, there)] == [part]


def test_what_only_the_moment_makes_differ_is_none() -> None:
    """The comparison lets go."""
    assert differences(Answer(200, (("date", "a"),), b""), Answer(200, (("date", "b"),), b"")) == []
