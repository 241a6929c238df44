import httpx
import pytest

from tests.fakes.registry_api import FakeRegistry
from tests.registry.cli.conftest import Meshctl


@pytest.mark.parametrize(
    ("accepted", "reasons", "state"),
    [(True, (), "accepted"), (True, ("warning: a", "b"), "warned"), (False, ("spec: no",), "rejected")],
)
def test_a_row_says_what_the_controller_says(
    meshctl: Meshctl, registry: FakeRegistry, accepted: bool, reasons: tuple[str, ...], state: str
) -> None:
    """A row has the controller's judgement, and its reasons stand below, each in a line."""
    key, document = "services/default/web", {"kind": "Service", "metadata": {"name": "web"}}
    answer = {"key": key, "revision": 4, "resource": document, "accepted": accepted, "reasons": reasons}
    registry.instead = lambda _: httpx.Response(200, json={"revision": 4, "items": [answer]})
    lines = meshctl("get svc").stdout.splitlines()
    assert lines[1].split()[:4] == ["default", "web", "4", state]
    assert [line.split(maxsplit=2) for line in lines[4:]] == [["default", "web", each] for each in reasons]
