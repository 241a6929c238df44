"""Requests between two workloads of one host: no tunnel, and the same rules."""

from collections.abc import Iterator

import msgspec
import pytest

from node_proxy.snapshot import Snapshot
from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.service import PortProtocol
from tests.integration.certificates import Authority, spiffe
from tests.integration.http_workloads import client, run_http
from tests.integration.snapshots import endpoint, local, policy, service, snapshot
from tests.integration.worker import Worker, stopping

WEB, API = spiffe("web"), spiffe("api")


class Host:
    """A host with both workloads."""

    def __init__(self, worker: Worker, port: int) -> None:
        self._worker = worker
        self._port = port
        self._revision = 0

    @property
    def entry(self) -> int:
        """The port that leads to the service."""
        return self._worker.ports["default/api:80"]

    def state(self, *policies: AuthorizationPolicy) -> Snapshot:
        """Give what is in force with these policies."""
        self._revision += 1
        at = endpoint(
            self._worker.node, self._worker.address, self._worker.tunnel_port, self._port, identity=API
        )
        return msgspec.structs.replace(
            snapshot(self._worker, revision=self._revision, policies=policies),
            services=(service("default/api", 80, at, protocol=PortProtocol.HTTP),),
            local=(local("web"), local("api", self._port, protocol=PortProtocol.HTTP)),
        )

    def enforce(self, *policies: AuthorizationPolicy) -> None:
        """Put these policies in force."""
        self._worker.give_snapshot(self.state(*policies))


@pytest.fixture(scope="module")
def host(authority: Authority) -> Iterator[Host]:
    """Run a host."""
    worker = Worker("one", "127.0.0.2", calls=[("default/api", 80, WEB)])
    with run_http("api") as workload, stopping(worker):
        made = Host(worker, workload.port)
        worker.start(made.state(), [authority.issue(WEB), authority.issue(API)], authority.root_pem)
        yield made


def test_answered(host: Host) -> None:
    """A call within the host is answered, and its workload hears who called."""
    with client(host.entry) as web:
        for length in (0, 10, 1_000_000):
            told = web.ask("POST", "/a//b", body=b"x" * length).told
            assert (told["length"], told["target"]) == (length, "/a/b")
            assert told["fields"]["nodemesh-caller"] == WEB


def test_denied(host: Host) -> None:
    """The policies hold on connections that are open, from one request to the next."""
    with client(host.entry) as web:
        assert web.get().status == 200
        host.enforce(policy("no-web", Action.DENY, principals=("nodemesh.local/ns/default/sa/web",)))
        answered = web.get()
        assert answered.status == 403
        assert answered.fields["nodemesh-reason"].startswith("denied; policy=default/no-web")
        host.enforce()
        assert web.get().status == 200
