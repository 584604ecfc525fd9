"""No command of set 1 is forgotten: the stories beside this file name those they cover.

The names are those of the recorded call sequences of wrangler 4.86 and 4.164 for: whoami, deploy,
versions, deployments, rollback, secrets, triggers, tail, delete.
"""

import ast
from pathlib import Path

HERE = Path(__file__).parent
SET_1 = """
whoami whoami-json whoami-account
deploy-first deploy-again deploy-dry deploy-tswasm deploy-sw deploy-assetsonly
deploy-assetsonly-again deploy-assetsworker deploy-nobundle deploy-python deploy-env
deploy-basedomain deploy-after-split deploy-last-from-api no-account-id
deploy-routes deploy-routes-again triggers-routes triggers-deploy
versions-upload versions-upload-basedomain versions-list versions-list-json versions-view
versions-deploy-split deployments-list deployments-list-json deployments-status
rollback rollback-id
secret-put secret-list secret-bulk secret-delete secret-put-new
deploy-keeps-secrets deploy-secrets-file
versions-secret-put versions-secret-list versions-secret-bulk versions-secret-delete
tail-json tail-pretty tail-route
delete delete-noforce
""".split()


def covered(text: str) -> set[str]:
    """Return the names in a file's `@pytest.mark.set1(…)` marks."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.set1":
            found |= {ast.literal_eval(argument) for argument in node.args}
    return found


def test_every_command_of_set_1_has_a_story() -> None:
    """Goal: the list is whole. Method: compare it with the stories' own marks, both ways."""
    told = {name for path in HERE.glob("test_*.py") for name in covered(path.read_text())}
    assert told == set(SET_1)


def test_a_forgotten_command_would_be_missed() -> None:
    """Goal: the check above bites. Method: a story that covers one name alone."""
    assert covered('@pytest.mark.set1("whoami")\ndef test(): ...\n') == {"whoami"}
