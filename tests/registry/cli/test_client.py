import ssl
from collections.abc import Callable

import httpx
import pytest

from registry.cli.client import RegistryClient, connect
from registry.cli.config import Settings
from registry.cli.exits import ExitCode, RegistryUnreachable, explain
from registry.errors import (
    ConfigError,
    Conflict,
    Forbidden,
    InvalidResource,
    NotFound,
    RegistryError,
    StoreForbidden,
    StoreUnavailable,
    Unauthenticated,
)
from tests.fakes.registry_api import TOKEN, FakeRegistry, problem

SETTINGS = Settings(server="https://registry.test:15010", token=TOKEN)


@pytest.fixture
def client(registry: FakeRegistry) -> RegistryClient:
    return RegistryClient(connect(SETTINGS, transport=registry))


def answering(status: int, content: bytes) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _request: httpx.Response(status, content=content)


def failing(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unauthenticated("who?"), ExitCode.REFUSED),
        (Forbidden("no"), ExitCode.REFUSED),
        (NotFound("nothing"), ExitCode.NOT_WELL),
        (Conflict("changed"), ExitCode.CONFLICT),
        (StoreUnavailable("no leader"), ExitCode.UNREACHABLE),
        (StoreForbidden("etcd says no"), ExitCode.UNREACHABLE),
        (InvalidResource(where="here", path="spec.a", reason="bad", mend="write b"), ExitCode.INVALID),
    ],
)
def test_problems_become_the_errors_they_tell_of(
    registry: FakeRegistry, client: RegistryClient, error: RegistryError, code: ExitCode
) -> None:
    """An error crosses the API with its type, its words and so its exit code."""
    registry.instead = lambda _request: problem(error)
    with pytest.raises(type(error)) as caught:
        client.list_nodes()
    assert (str(caught.value), explain(caught.value).code) == (str(error), code)


def test_an_invalid_resource_keeps_its_parts(registry: FakeRegistry, client: RegistryClient) -> None:
    """Where, what and how to mend it arrive apart, to be shown apart."""
    registry.instead = lambda _request: problem(
        InvalidResource(where="services/default/web", path="spec.ports", reason="is empty", mend="write one")
    )
    with pytest.raises(InvalidResource) as caught:
        client.list_nodes()
    shown = explain(caught.value)
    assert (shown.what, shown.where, shown.mend) == (
        "is empty",
        "services/default/web: spec.ports",
        "write one",
    )


@pytest.mark.parametrize(
    "error",
    [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("closed early")],
)
def test_no_answer_is_unreachable(
    registry: FakeRegistry, client: RegistryClient, error: httpx.TransportError
) -> None:
    """Whatever keeps the answer away, the message names the server."""
    registry.instead = failing(error)
    with pytest.raises(RegistryUnreachable, match=r"https://registry\.test:15010"):
        client.list_nodes()


def test_a_foreign_certificate_points_to_the_ca(registry: FakeRegistry, client: RegistryClient) -> None:
    """A server that another CA vouches for is told from one that is down."""
    registry.instead = failing(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))
    with pytest.raises(RegistryUnreachable, match="the configured CA does not vouch for"):
        client.list_nodes()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>hello</html>"),
        (200, b'{"items": 1}'),
        (502, b"bad gateway"),
        (302, b""),
        (500, b'{"status": 500, "title": "internal error", "detail": "see the log"}'),
    ],
)
def test_what_no_registry_says_is_unreachable(
    registry: FakeRegistry, client: RegistryClient, status: int, content: bytes
) -> None:
    """A proxy's page, another program's answer or a bug is not an answer."""
    registry.instead = answering(status, content)
    with pytest.raises(RegistryUnreachable):
        client.list_nodes()


def test_unknown_fields_are_let_pass(registry: FakeRegistry, client: RegistryClient) -> None:
    """A newer registry's answer is read as far as it is known."""
    registry.nodes = [{"node": "web-1", "live": True, "mood": "fine"}]
    assert client.list_nodes().items[0].node == "web-1"


def test_a_ca_without_certificate_is_the_operators_mistake() -> None:
    """Text that is no PEM is refused before anything is sent."""
    with pytest.raises(ConfigError, match="no PEM certificate"):
        connect(Settings(server="https://a:1", token="t", ca_pem="nonsense"))


def test_the_client_verifies_by_default() -> None:
    """Without a CA of its own the client trusts the system's roots, not everybody."""
    with connect(SETTINGS) as http:
        pool = http._transport
        assert isinstance(pool, httpx.HTTPTransport)
        context = pool._pool._ssl_context
        assert context is not None
        assert context.verify_mode is ssl.CERT_REQUIRED
