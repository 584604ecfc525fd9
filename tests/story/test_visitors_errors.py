"""What a visitor sees when something is wrong: status, page or document, and the ray id."""

import pytest

from tests.platforms import RunningPlatform

pytestmark = pytest.mark.story

HTML = {"Accept": "text/html,application/xhtml+xml"}
JSON = {"Accept": "application/json"}
THROWS = "export default { fetch() { throw new Error('a secret detail') } }"
ECHO = """
export default { fetch(request) {
  return Response.json({ headers: Object.fromEntries(request.headers), cf: request.cf,
    url: request.url });
} };
"""


@pytest.mark.parametrize("accept", [HTML, JSON], ids=["html", "json"])
def test_an_unknown_host_is_not_found(platform: RunningPlatform, accept: dict[str, str]) -> None:
    """Goal: 404 in the visitor's language. Method: a name that nobody deployed."""
    answer = platform.get("nobody-deployed-this", headers=accept)
    assert answer.status_code == 404
    wanted = "html" if accept is HTML else "json"
    assert wanted in answer.headers["content-type"]


@pytest.mark.parametrize("accept", [HTML, JSON], ids=["html", "json"])
def test_an_uncaught_exception_is_1101_with_the_ray_and_no_detail(
    platform: RunningPlatform, accept: dict[str, str]
) -> None:
    """Goal: the visitor gets a number to quote and nothing of the owner's."""
    platform.upload("throws", THROWS)
    answer = platform.get("throws", headers=accept)
    assert answer.status_code == 500
    assert "1101" in answer.text
    assert "a secret detail" not in answer.text
    ray = answer.headers["cf-ray"].partition("-")[0]
    assert ray in answer.text


def test_headers_that_we_set_cannot_be_forged(platform: RunningPlatform) -> None:
    """Goal: CF-Connecting-IP, CF-Ray and X-Forwarded-Proto tell the truth."""
    platform.upload("echo", ECHO)
    platform.wait_for("echo", "headers")
    forged = {
        "CF-Connecting-IP": "203.0.113.9",
        "CF-Ray": "forged",
        "X-Forwarded-Proto": "https",
        "X-Real-IP": "203.0.113.9",
        "CF-Worker": "forged",
    }
    seen = platform.get("echo", headers=forged).json()
    headers = seen["headers"]
    assert headers["cf-connecting-ip"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["cf-ray"] != "forged"
    assert seen["url"].startswith(f"http://echo.{platform.domain}")
    assert seen["cf"]["colo"]
    assert seen["cf"]["httpProtocol"] == "HTTP/1.1"
