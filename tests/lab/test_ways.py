"""Explicit ways into the mesh and out of it: SOCKS, HTTP CONNECT, Unix sockets, external services."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.certificates import Authority
from tests.lab.topology import HTTP_SERVICE
from tests.support.hosts import Host, can_make_namespaces
from tests.support.mesh import PREFIX, Mesh, Node
from tests.support.namespaces import Fabric
from tests.support.owned import OwnedClient
from tests.support.plans import ListenerPlan, NodePlan, WorkloadPlan, render_denial, render_service
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not can_make_namespaces(), reason="needs root, ip and nft"),
]

WEB_USER = 4242
WEB = WorkloadPlan(name="web", port=8080, health="none", uid=WEB_USER)
JOBS = WorkloadPlan(name="jobs", port=8082, health="none")
API = WorkloadPlan(name="api", port=8081, health="http")
SOCKS, CONNECT = "127.0.0.1:1080", "127.0.0.1:3128"
OUTSIDE_PORT, TLS_PORT = 8000, 8443
SECURE, PLAIN = "secure.example", "plain.example"
EXTERNAL = """apiVersion: nodemesh/v1
kind: ExternalService
metadata: {{name: {name}}}
spec:
  hosts: [{host}]
  ports: [{{number: 80, targetPort: {target}, protocol: http}}]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
{more}---
"""


@dataclass(frozen=True)
class Ways:
    """A calling host that captures nothing, one that serves, and one that knows nothing of the mesh."""

    fabric: Fabric
    mesh: Mesh
    caller: Node
    app: Node
    folder: Path
    outside: Host

    def external(self, name: str, host: str, target: int, authority: Authority) -> str:
        """Write an external service that is reached by TLS and verified against an authority."""
        return _external(name, host, target, self.outside.address, _tls(authority)).removesuffix("---\n")

    @contextlib.contextmanager
    def denied_to_web(self) -> Iterator[None]:
        """Refuse web the service."""
        key = f"{PREFIX}authorizationpolicies/default/no-web"
        denial = render_denial("no-web", of="api", source="web", port=API.port)
        self.mesh.wait_applied(self.mesh.put(key, denial))
        try:
            yield
        finally:
            self.mesh.wait_applied(self.mesh.delete(key))

    def curl(self, url: str, *options: str, node: Node | None = None, user: int = 0) -> tuple[int, str]:
        """Fetch; gives the exit status and what was said, headers of the proxy's answer included."""
        host = (node or self.caller).host
        identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
        done = host.run(
            *identity, "curl", *options, "--silent", "--show-error", "--include", "--max-time", "10", url,
            check=False, timeout=20,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    folder = Path("/run") / f"nmesh-ways-{os.getpid()}"
    folder.mkdir(mode=0o755)
    listeners = (
        ListenerPlan(address=SOCKS, type="socks5"),
        ListenerPlan(address=CONNECT, type="http_connect"),
        ListenerPlan(address=f"unix:{folder}/socks", type="socks5", mode="0666"),
        ListenerPlan(address=f"unix:{folder}/connect", type="http_connect", mode="0666"),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(folder.rmdir)
        fabric = stack.enter_context(Fabric(["near", "app", "outside"]))
        mesh = stack.enter_context(Mesh(fabric.switch))
        near, app, outside = fabric.hosts.values()
        authority = Authority("outside")
        mesh.start_etcd()
        mesh.start_registry()
        text = render_service("api", port=80, target=API.port, protocol="http")
        mesh.meshctl("apply", "-f", "-", text=text + _externals(outside.address, authority))
        caller, served = mesh.add_nodes(
            [
                NodePlan(
                    name="near", host=near, speaks_for=JOBS, workloads=(WEB, JOBS), listeners=listeners,
                    capture=False,
                ),
                NodePlan(
                    name="app", host=app, speaks_for=API, workloads=(API,), listeners=listeners[:2],
                    passthrough=True,
                ),
            ]
        )  # fmt: skip
        mesh.start_proxies([caller, served])
        mesh.start_service(served, "api", HTTP_SERVICE, "--name", "api@app", "--port", str(API.port))
        _start_outside(mesh, outside, authority, tmp_path_factory.mktemp("outside"))
        mesh.wait_services({"api": 1})
        made = Ways(fabric, mesh, caller, served, folder, outside)
        wait_until(
            lambda: made.curl("http://api.mesh/", "--proxy", f"socks5h://{SOCKS}")[0] == 0,
            what="api to answer",
            deadline=20,
        )
        yield made


def _externals(address: str, authority: Authority) -> str:
    only_web = '  allowedPrincipals: ["nodemesh.local/ns/default/sa/web"]\n'
    plain = _external("plain", PLAIN, OUTSIDE_PORT, address, only_web)
    return "---\n" + plain + _external("secure", SECURE, TLS_PORT, address, _tls(authority))


def _external(name: str, host: str, target: int, address: str, more: str) -> str:
    return EXTERNAL.format(name=name, host=host, target=target, address=address, more=more)


def _tls(authority: Authority) -> str:
    pem = "".join(f"      {line}\n" for line in authority.root_pem.splitlines())
    return f"  tls:\n    mode: SIMPLE\n    caCertificates: |\n{pem}"


def _start_outside(mesh: Mesh, host: Host, authority: Authority, folder: Path) -> None:
    leaf = authority.issue("outside", uris=(), dns=(SECURE,))
    pem = folder / "server.pem"
    pem.write_text(leaf.chain_pem + leaf.key_pem)
    options = ["--name", "outside", "--listen", host.address, "--port", str(OUTSIDE_PORT)]
    mesh.processes.start_module("outside", host.prefix, HTTP_SERVICE, *options).wait_log("serving")
    mesh.processes.start(
        "outside-tls",
        [*host.prefix, "openssl", "s_server", "-accept", str(TLS_PORT), "-cert", str(pem), "-www", "-quiet"],
    )


SOCKS_OPTION = ("--proxy", f"socks5h://{SOCKS}")
CONNECT_OPTION = ("--proxytunnel", "--proxy", f"http://{CONNECT}")


@pytest.mark.parametrize("proxy", [SOCKS_OPTION, CONNECT_OPTION], ids=["socks5", "http_connect"])
@pytest.mark.parametrize("host", ["api.mesh", "api.default.mesh", "vip4", "vip6"])
def test_services(ways: Ways, proxy: tuple[str, ...], host: str) -> None:
    """Where nothing is captured, curl reaches a service by SOCKS and by CONNECT, by name and virtual IP."""
    if host.startswith("vip"):
        api, *_ = ways.mesh.meshctl_json("service", "list")["items"]
        four, six = sorted(api["vips"], key=lambda vip: ":" in vip)
        host = four if host == "vip4" else f"[{six}]"
    status, said = ways.curl(f"http://{host}/", *proxy)
    assert (status, "api@app" in said) == (0, True), said


def test_unix_sockets(ways: Ways) -> None:
    """The same through Unix sockets, whose callers are told apart by user."""
    target = "api.mesh:80"
    with ways.denied_to_web():
        for user, answer in ((0, "200"), (WEB_USER, "403")):
            with OwnedClient(uid=user, prefix=ways.caller.host.prefix) as client:
                client.do("connect_unix", f"{ways.folder}/connect")
                client.do("send", f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
                # Of HTTP each request is answered by itself, so the way to it is open.
                assert client.do("receive").startswith("HTTP/1.1 200 ")
                client.do("send", f"GET / HTTP/1.1\r\nHost: {target}\r\n\r\n")
                assert client.do("receive").startswith(f"HTTP/1.1 {answer} ")
    status, said = ways.curl("http://api.mesh/", "--proxy", f"socks5h://localhost{ways.folder}/socks")
    assert (status, "api@app" in said) == (0, True), said


def test_refusals(ways: Ways) -> None:
    """A denial, an unknown name and a dead service each have their own answer, with the reason in it."""
    with ways.denied_to_web():
        _, said = ways.curl("http://api.mesh/", *CONNECT_OPTION, user=WEB_USER)
        assert "HTTP/1.1 403 Forbidden" in said
        assert "nodemesh-reason: denied; policy=default/no-web; id=" in said
        _, said = ways.curl("http://api.mesh/", *SOCKS_OPTION, user=WEB_USER)
        assert "HTTP/1.1 403 Forbidden" in said
    _, said = ways.curl("http://nobody.mesh/", *CONNECT_OPTION)
    assert "HTTP/1.1 404 Not Found" in said
    assert "nodemesh-reason: unknown_destination" in said
    _, said = ways.curl("http://api.mesh:81/", *CONNECT_OPTION)
    assert "HTTP/1.1 404 Not Found" in said


def test_registry_only(ways: Ways) -> None:
    """What is no service is refused where the registry alone counts, and passes where that is allowed."""
    url = f"http://{ways.outside.address}:{OUTSIDE_PORT}/"
    _, said = ways.curl(url, *CONNECT_OPTION)
    assert "HTTP/1.1 404 Not Found" in said
    status, said = ways.curl(url, *CONNECT_OPTION, node=ways.app)
    assert (status, '"outside"' in said) == (0, True), said
    status, said = ways.curl(url, *SOCKS_OPTION, node=ways.app)
    assert (status, '"outside"' in said) == (0, True), said
    assert 'side="passthrough"' in wait_until(
        lambda: ways.app.metrics() if 'side="passthrough"' in ways.app.metrics() else "",
        what="the metrics of what passed",
        deadline=5,
    )


@pytest.mark.parametrize("address", ["127.0.0.1:1080", "127.0.0.1:15020", "own:15008", "own:1080"])
def test_no_loops(ways: Ways, address: str) -> None:
    """Nothing passes to the proxy itself."""
    address = address.replace("own", ways.app.host.address)
    status, said = ways.curl(f"http://{address}/", *CONNECT_OPTION, node=ways.app)
    assert status != 0
    assert "HTTP/1.1 200" not in said


@pytest.mark.parametrize("user", [WEB_USER, 0], ids=["web", "jobs"])
def test_external_service(ways: Ways, user: int) -> None:
    """An external service is for those whom it allows, by its own name and by its name in the mesh."""
    for host in (PLAIN, "plain.mesh"):
        status, said = ways.curl(f"http://{host}/", *CONNECT_OPTION, user=user)
        if user == WEB_USER:
            assert (status, '"outside"' in said) == (0, True), said
        else:
            assert "HTTP/1.1 403 Forbidden" in said
            assert "nodemesh-reason: denied; policy=default/plain" in said


def test_tls_origination(ways: Ways) -> None:
    """The caller speaks HTTP, the server HTTPS, and its certificate is verified."""
    status, said = ways.curl(f"http://{SECURE}/", *SOCKS_OPTION)
    assert status == 0, said
    assert "TLSv1.3" in said
    wrong = ways.external("secure", SECURE, TLS_PORT, Authority("somebody else"))
    revision = ways.mesh.put(f"{PREFIX}externalservices/default/secure", wrong)
    ways.mesh.wait_applied(revision)
    _, said = ways.curl(f"http://{SECURE}/", *CONNECT_OPTION)
    assert "HTTP/1.1 502 Bad Gateway" in said
    assert "nodemesh-reason: tls_failed" in said


def test_virtual_ips_of_external_services(ways: Ways) -> None:
    """External services have virtual IPs of their own, which lead to them."""
    services = ways.mesh.meshctl_json("service", "list")["items"]
    (vips,) = [
        each["vips"] for each in services if each["kind"] == "ExternalService" and each["name"] == "plain"
    ]
    assert len(vips) == 2
    for vip in vips:
        host = f"[{vip}]" if ":" in vip else vip
        status, said = ways.curl(f"http://{host}/", *SOCKS_OPTION, user=WEB_USER)
        assert (status, '"outside"' in said) == (0, True), said


def test_files_go_with_the_proxy(ways: Ways) -> None:
    """The sockets' files are gone when the proxy has been told to stop, and there again when it runs."""
    paths = [ways.folder / name for name in ("socks", "connect")]
    assert [oct(path.stat().st_mode & 0o777) for path in paths] == ["0o666", "0o666"]
    ways.caller.running_proxy.stop()
    assert list(ways.folder.iterdir()) == []
    ways.mesh.start_proxies([ways.caller])
    assert all(path.is_socket() for path in paths)
