import json
from typing import NamedTuple

import pytest

from tests.hosts.machine import Machine
from tests.hosts.rollout import Outcome
from tests.hosts.site import API, NODES, PROXY, REGISTRY, Site, start_api
from tests.support.mesh import PREFIX
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


def running(machine: Machine, unit: str) -> int:
    """Wait until a unit is active; give the id of its main process."""
    wait_until(lambda: machine.unit(unit, "ActiveState") == {"ActiveState": "active"}, what=unit, deadline=20)
    return int(machine.unit(unit, "MainPID")["MainPID"])


def wait_replaced(machine: Machine, unit: str, before: int) -> None:
    """Wait until a unit runs with another main process than it had before."""
    wait_until(
        lambda: machine.unit(unit, "MainPID")["MainPID"] not in ("0", str(before)),
        what=f"another main process of {unit}",
        deadline=20,
    )
    running(machine, unit)


def test_units_run(site: Site) -> None:
    """After the first run registry and proxies are active, enabled, and were not restarted."""
    for machine, name in ((site.web1, REGISTRY), (site.web1, PROXY), (site.api1, PROXY)):
        unit = machine.unit(name, "ActiveState", "UnitFileState", "NRestarts")
        assert unit == {"ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}


def test_call_through_the_mesh(site: Site) -> None:
    """A service reaches one on the other machine by its virtual address, under its own identity."""
    site.wait_answered()
    opened = [record for record in site.api1.records(PROXY) if record["event"] == "connection opened"]
    assert {(record["source"], record["destination"]) for record in opened} == {
        ("spiffe://nodemesh.local/ns/default/sa/web", "default/api")
    }


def test_another_unit(site: Site) -> None:
    """A call of another unit of the same machine is not web's: it is refused, and the log names the unit."""
    virtual = json.loads(site.meshctl("service", "get", "api", "--output", "json"))["vips"]
    (address,) = (vip for vip in virtual if "." in vip)
    call = ["curl", "--fail", "--silent", "--show-error", "--max-time", "10", f"http://{address}/"]
    stranger = site.web1.run(
        "systemd-run", "--unit=stranger", "--wait", "--pipe", "--property=DynamicUser=yes", *call, check=False
    )
    assert stranger.returncode != 0, stranger.stdout
    refused = [record for record in site.web1.records(PROXY) if record["event"] == "request refused"]
    assert ("spiffe://nodemesh.local/node/web-1", "stranger.service") in {
        (record["source"], record.get("caller_unit")) for record in refused
    }
    site.wait_answered()


def test_units_are_well_formed(site: Site) -> None:
    """The units hold nothing that systemd remarks on."""
    done = site.web1.run("systemd-analyze", "verify", PROXY, REGISTRY)
    assert done.stdout + done.stderr == ""


def test_a_second_run_changes_nothing(site: Site) -> None:
    """A second run of the playbook succeeds with no task changed."""
    again = site.rollout.run()
    assert (again.failed, again.changed) == ([], 0), again.output


class Edit(NamedTuple):
    """A run of the playbook with other variables, and what web-1's proxy was before."""

    outcome: Outcome
    before: tuple[int, str]


def proxy_and_file(machine: Machine) -> tuple[int, str]:
    """Give what must stay when a configuration is refused."""
    return running(machine, PROXY), machine.run("cat", "/etc/nodemesh/proxy.toml").stdout


@pytest.fixture(scope="module")
def edit(site: Site) -> Edit:
    """Run the playbook with a mistake for web-1 and a further workload for api-1."""
    before = proxy_and_file(site.web1)
    wrong = site.rollout.changed(NODES, site.web1.host, nodemesh_proxy_config={"wokers": 1})
    spare = {"name": "spare", "account": "other", "ports": [8099], "health": {"type": "none"}}
    more = site.rollout.changed(NODES, site.api1.host, nodemesh_proxy_workloads=[API, spare])
    with wrong, more:
        return Edit(site.rollout.run(tags="nodes"), before)


def test_a_wrong_configuration_is_not_installed(site: Site, edit: Edit) -> None:
    """A field that does not exist ends the play on its host, by name; what was there goes on."""
    assert edit.outcome.failed == ["web-1"], edit.outcome.output
    assert "did you mean workers?" in edit.outcome.output
    assert proxy_and_file(site.web1) == edit.before


def test_a_new_workload(site: Site, edit: Edit) -> None:
    """A workload with an identity that the node's enrolment lacks makes it join anew; no token is shown."""
    assert "nm1." not in edit.outcome.output + site.first.output
    nodes = {node["node"]: node for node in json.loads(site.meshctl("node", "list", "-o", "json"))["items"]}
    assert set(nodes["api-1"]["identities"]) == {
        "spiffe://nodemesh.local/ns/default/sa/api",
        "spiffe://nodemesh.local/ns/default/sa/other",
    }
    site.wait_answered()


def test_a_restarted_proxy_serves_at_once(site: Site) -> None:
    """When systemd says that a proxy has started, it carries traffic."""
    site.web1.run("systemctl", "restart", PROXY)
    answer = site.call()
    assert answer.status == 200, f"{answer.text}\n{site.web1.journal(PROXY)}"


@pytest.mark.parametrize("unit", [PROXY, REGISTRY])
def test_killed(site: Site, unit: str) -> None:
    """A unit whose main process is killed is started anew by systemd, and works."""
    before = running(site.web1, unit)
    site.web1.run("kill", "-KILL", str(before))
    wait_replaced(site.web1, unit, before)
    site.wait_answered()
    wait_until(site.registry_answers, what="the registry", deadline=20, pause=0.2)


def test_terminated(site: Site) -> None:
    """A proxy that is sent SIGTERM by somebody else leaves in order and is started anew."""
    before = running(site.web1, PROXY)
    site.web1.run("kill", "-TERM", str(before))
    wait_replaced(site.web1, PROXY, before)
    assert "Traceback" not in site.web1.journal(PROXY)
    site.wait_answered()


def test_stopped_proxy_leaves_nothing_behind(site: Site) -> None:
    """After a stop there are no table, no routes, no processes and nothing of the node in etcd."""
    api1 = site.api1
    assert "nodemesh" in api1.run("nft", "list", "tables").stdout
    api1.run("systemctl", "stop", PROXY)
    assert api1.unit(PROXY, "ActiveState", "Result") == {"ActiveState": "inactive", "Result": "success"}
    assert api1.run("nft", "list", "tables").stdout == ""
    for family in ("-4", "-6"):
        routes = api1.run("ip", family, "route", "show", "dev", "lo").stdout
        assert "240.240." not in routes
        assert "fd6d:" not in routes
    assert api1.run("pgrep", "--full", "/opt/nodemesh", check=False).stdout == ""
    assert site.mesh.etcdctl("get", "--prefix", "--keys-only", f"{PREFIX}nodes/api-1/").split() == []
    api1.run("systemctl", "start", PROXY)
    site.wait_answered()


def test_reboot(site: Site) -> None:
    """A machine that is shut down and booted again is back in the mesh without anybody's doing."""
    site.api1.shut_down()
    site.api1.boot()
    site.api1.wait_up()
    start_api(site.api1)
    site.wait_answered()
