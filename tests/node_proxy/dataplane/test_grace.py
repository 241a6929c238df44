"""Open streams that a change of policy denies, while the mesh gives them a grace."""

import msgspec
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Refusal
from node_proxy.dataplane.open_streams import CUT, Admitted
from node_proxy.snapshot import Snapshot
from registry.model.authorization import Action, AuthorizationPolicy
from registry.model.decision import Outcome
from registry.model.identity import WorkloadIdentity
from tests.fakes.context import scene, snapshot
from tests.integration.certificates import TRUST_DOMAIN, spiffe
from tests.integration.snapshots import local, policy

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
API = spiffe("api")
PORT = 9090
NO_WEB = policy("no-web", Action.DENY, principals=(WEB.principal,))
NOBODY = policy("nobody", Action.ALLOW, principals=("nodemesh.local/ns/default/sa/nobody",))


def state(*policies: AuthorizationPolicy, grace: int = 60, workload: bool = True) -> Snapshot:
    """Give a state with a grace."""
    workloads = (local("api", PORT),) if workload else ()
    return msgspec.structs.replace(snapshot(workloads=workloads, policies=policies), enforcement_grace=grace)


class House:
    """An open stream of web, and a clock in the test's hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.stage = scene(state(), clock=lambda: self.now)
        self.admission = Admission(self.stage.context)
        self.cut: list[str] = []
        self.open()
        self.stage.context.decisions.take(self.now)

    def open(self) -> None:
        """Open one more stream."""
        admitted = self.admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        self.admission.streams.opened(admitted, self.cut.append)

    def enforce(self, changed: Snapshot) -> None:
        """Put another state in force."""
        self.stage.enforce(changed)
        self.admission.streams.judge_again()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.admission.streams._cut_due()


def test_denied_now_and_cut_later() -> None:
    """A denied stream goes on until its grace ends; both moments are logged with the policy and one id."""
    house = House()
    house.enforce(state(NO_WEB))
    house.wait(59.9)
    assert house.cut == []
    house.wait(0.1)
    assert house.cut == ["policy: default/no-web"]
    (denied,) = house.stage.logged("stream denied")
    (cut,) = house.stage.logged("stream cut")
    assert denied["policy"] == cut["policy"] == "default/no-web"
    assert denied["id"] == cut["id"]
    assert (denied["grace_seconds"], cut["grace_seconds"]) == (60.0, 0.0)


def test_new_streams_have_no_grace() -> None:
    """A policy holds for new streams at once."""
    house = House()
    house.enforce(state(NO_WEB))
    assert isinstance(house.admission.admit(source=WEB, port=PORT, serving=API), Refusal)


def test_without_grace() -> None:
    """Where the mesh gives no grace a denied stream is cut at once."""
    house = House()
    house.enforce(state(NO_WEB, grace=0))
    assert house.cut == ["policy: default/no-web"]
    assert house.stage.logged("stream denied") == []


def test_change_back() -> None:
    """A stream that is allowed again before its grace ends goes on, and a later denial is a new one."""
    house = House()
    house.enforce(state(NO_WEB))
    house.wait(50)
    house.enforce(state())
    house.wait(50)
    assert house.cut == []
    (again,) = house.stage.logged("stream allowed again")
    assert again["policy"] == "default/no-web"
    house.enforce(state(NO_WEB))
    house.wait(59)
    assert house.cut == []
    house.wait(1)
    assert len(house.cut) == 1
    first, second = house.stage.logged("stream denied")
    assert first["id"] != second["id"]


def test_other_changes_do_not_put_it_off() -> None:
    """Edits that change nothing for a denied stream do not begin its grace anew."""
    house = House()
    for _ in range(6):
        house.enforce(state(NO_WEB))
        house.wait(10)
    assert len(house.cut) == 1
    assert len(house.stage.logged("stream denied")) == 1


def test_another_policy_takes_over() -> None:
    """When another policy denies it instead, that one is named, and the grace is still the first's."""
    house = House()
    house.enforce(state(NO_WEB))
    house.wait(30)
    house.enforce(state(NOBODY))
    house.wait(30)
    assert house.cut == ["policy: default/nobody"]
    assert [line["policy"] for line in house.stage.logged("stream denied")] == [
        "default/no-web",
        "default/nobody",
    ]


def test_grace_that_is_shortened() -> None:
    """A shorter grace holds for those who wait already."""
    house = House()
    house.enforce(state(NO_WEB, grace=300))
    house.enforce(state(NO_WEB, grace=10))
    house.wait(10)
    assert len(house.cut) == 1


def test_withdrawn_workload_has_no_grace() -> None:
    """A stream to a workload that is gone is cut at once: its port may be another's now."""
    house = House()
    house.enforce(state(workload=False))
    assert house.cut == ["policy: workload_withdrawn"]


def test_one_decision() -> None:
    """A denial with grace is one decision in the log of decisions, and one in the metric when it is cut."""
    house = House()
    house.enforce(state(NO_WEB))
    house.enforce(state(NO_WEB))
    assert house.stage.counted(telemetry.DENIALS) == 0
    house.wait(60)
    (decided,) = house.stage.context.decisions.take(house.now)
    assert (decided.outcome, decided.reason, decided.count) == (Outcome.DENIED, CUT, 1)
    assert decided.ids == (house.stage.logged("stream cut")[0]["id"],)
    assert house.stage.counted(telemetry.DENIALS, reason=CUT, policy="default/no-web", source=str(WEB)) == 1


async def test_the_task_cuts_in_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The worker's task cuts each stream when its own grace ends."""
    stage = scene(state(), clock=trio.current_time)
    admission = Admission(stage.context)
    ended: list[float] = []
    nursery.start_soon(admission.streams.cut_after_grace)
    await wait_all_tasks_blocked()
    begin = trio.current_time()
    for changed in (state(NO_WEB, grace=20), state(NO_WEB, grace=20)):
        stage.enforce(state())
        admitted = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        admission.streams.opened(admitted, lambda _: ended.append(round(trio.current_time() - begin)))
        stage.enforce(changed)
        admission.streams.judge_again()
        await trio.sleep(5)
    await trio.sleep(60)
    assert ended == [20, 25]
