"""What becomes of a host's traffic when its proxy, its rules or its files change."""

import os
import signal
import sys

from tests.lab.topology import TCP_PORT, Lab
from tests.support.hosts import Host
from tests.support.mesh import Node
from tests.support.plans import render_service
from tests.support.processes import wait_until

SSH_PORT = 22
KEEPS_TALKING = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 22)) as here:
    while True:
        here.sendall(b"word")
        print(here.recv(4).decode(), flush=True)
        time.sleep(0.1)
"""
ECHO = """
import socket
server = socket.create_server(("0.0.0.0", 22))
print("ready", flush=True)
sock, _ = server.accept()
while data := sock.recv(100):
    sock.sendall(data)
"""


def table(host: Host) -> str:
    """Give our table as it is on a host, empty when there is none."""
    return host.run("nft", "list", "table", "inet", "nodemesh", check=False).stdout


def capture(node: Node, *arguments: str) -> str:
    """Run a command of capture on a node; give what it says."""
    command = [sys.executable, "-m", "node_proxy.main", "capture", *arguments, "--config", str(node.config)]
    return node.host.run(*command, check=False).stdout


def test_proxy_that_crashes(lab: Lab) -> None:
    """An SSH session outlives a crash of the proxy; captured calls are refused until it is back."""
    host = lab.caller.host
    server = lab.mesh.processes.start("sshd", [*host.prefix, sys.executable, "-c", ECHO])
    server.wait_log("ready")
    other = lab.app1.host
    session = lab.mesh.processes.start(
        "ssh", [*other.prefix, sys.executable, "-c", KEEPS_TALKING, host.address]
    )
    session.wait_log("word")
    try:
        rules = table(host)
        workers = lab.caller.workers()
        os.kill(lab.caller.running_proxy.pid, signal.SIGKILL)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        wait_until(
            lambda: lab.try_client("name", lab.virtual["stock"][0]).returncode, what="refusals", deadline=10
        )
        assert table(host) == rules
        words = session.text().count("word")
        wait_until(lambda: session.text().count("word") > words + 5, what="the session to go on", deadline=5)
        assert "by agent at" in capture(lab.caller, "status")
        lab.caller.running_proxy.kill()
        lab.mesh.start_proxies([lab.caller])
        lab.wait_reachable("stock")
        assert session.running()
    finally:
        session.kill()
        server.kill()


def test_verified(lab: Lab) -> None:
    """Verify dials through a working mesh's capture and finds nothing wrong."""
    said = capture(lab.caller, "verify")
    assert "FAILED" not in said
    assert "ok     240.240.0.0 leads to the proxy" in said
    assert f"ok     default/stock answers at {lab.virtual['stock'][0]}:{TCP_PORT}: carried" in said


def test_new_service(lab: Lab) -> None:
    """A new service is in the sets of every host, whose tables are the same as before otherwise."""
    host = lab.caller.host
    skeleton = host.run("nft", "--terse", "list", "table", "inet", "nodemesh").stdout
    before = host.run("nft", "--json", "list", "tables").stdout
    lab.mesh.meshctl("apply", "-f", "-", text=render_service("more", port=80, target=81, protocol="tcp"))
    try:
        wait_until(lambda: "default/more" in capture(lab.caller, "status"), what="its word", deadline=20)
        wait_until(
            lambda: "set vips4 lacks" not in capture(lab.caller, "status"), what="its address", deadline=20
        )
        assert host.run("nft", "--terse", "list", "table", "inet", "nodemesh").stdout == skeleton
        assert host.run("nft", "--json", "list", "tables").stdout == before
    finally:
        lab.mesh.meshctl("delete", "service", "more")


def test_rules_that_another_took_away(lab: Lab) -> None:
    """After `flush ruleset`, as a firewall's restart does, capture is back within its inspection."""
    host = lab.caller.host
    host.run("nft", "flush", "ruleset")
    wait_until(lambda: table(host), what="the rules to be back", deadline=20)
    lab.wait_reachable("stock")
