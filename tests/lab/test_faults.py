import os
import signal
import time

import pytest

from tests.lab.topology import API, Lab, answered_by, start_api
from tests.support.processes import Process, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

URL = "http://api.mesh/"
OUTAGE = 60.0


def failures(load: Process) -> list[str]:
    """What went wrong under load so far."""
    return [record["error"] for record in load.records() if record["error"] or record["status"] != 200]


def test_traffic_leaves_a_killed_service(lab: Lab) -> None:
    """When one of two endpoints is killed, the other takes over; when it is back, it is used again."""
    with lab.load(URL, rate=50) as load:
        wait_until(lambda: len(set(answered_by(load))) == 2, what="both endpoints to answer", deadline=10)
        lab.app1.services["api"].kill()
        wait_until(
            lambda: len(recent := answered_by(load)[-50:]) == 50 and set(recent) == {"api@app-2"},
            what="a second's answers from the other endpoint alone",
            deadline=10,
        )
        start_api(lab.mesh, lab.app1)
        wait_until(
            lambda: {"api@app-1", "api@app-2"} <= set(answered_by(load)[-50:]),
            what="both endpoints to answer again",
            deadline=10,
        )


def test_a_killed_worker_takes_only_its_own_connections(lab: Lab) -> None:
    """The other worker's connections live on, new ones are accepted, and the worker is replaced."""
    count = 40
    held = lab.start_client("held-by-workers", "hold", lab.virtual["stock"][0], count)
    held.wait_log("holding")
    before = lab.caller.workers()
    assert len(before) == 2
    victim = before[0]
    own = connections_of(lab, victim)
    assert 0 < own < count, "both workers hold some, or this test shows nothing"
    os.kill(victim, signal.SIGKILL)
    assert lab.client("name", lab.virtual["stock"][0]) == {"name": "stock@app-1"}
    wait_until(
        lambda: len(lab.caller.workers()) == 2 and victim not in lab.caller.workers(),
        what="the worker to be replaced",
        deadline=5,
    )
    wait_until(
        lambda: sum("ended" in record for record in held.records()) == own,
        what="the killed worker's connections to end",
        deadline=5,
    )
    assert held.running()
    assert lab.client("many", lab.virtual["stock"][0], 50)["failed"] == 0
    assert sum("ended" in record for record in held.records()) == own
    held.stop()


def connections_of(lab: Lab, worker: int) -> int:
    """How many captured connections a worker of the calling host holds."""
    listing = lab.caller.host.run("ss", "-Htnp", "state", "established", "sport", "=", ":15001").stdout
    return sum(f"pid={worker}," in line for line in listing.splitlines())


def test_traffic_goes_on_without_etcd(lab: Lab) -> None:
    """With etcd down for a minute no request fails; when it is back, a new edit is applied."""
    with lab.load(URL, rate=40) as load:
        lab.mesh.stop_etcd()
        end = time.monotonic() + OUTAGE
        wait_until(lambda: time.monotonic() > end, what="the outage to pass", deadline=2 * OUTAGE, pause=0.5)
        during = len(answered_by(load))
        assert failures(load) == []
        assert during > OUTAGE * 20
        lab.mesh.start_etcd()
        with lab.denied("after-the-outage", of=API):
            wait_until(lambda: failures(load), what="the edit to be applied", deadline=20)
        wait_until(
            lambda: answered_by(load)[-1].startswith("api@"), what="its removal to be applied", deadline=20
        )
