import pytest

from node_proxy.dataplane import telemetry
from node_proxy.dataplane.admission import Admission, Call, Refusal
from node_proxy.dataplane.open_streams import Admitted, OpenStream
from node_proxy.snapshot import Snapshot
from registry.model.authorization import Action
from registry.model.decision import Outcome
from registry.model.identity import NodeIdentity, WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from tests.fakes.context import Scene, scene, snapshot
from tests.integration.certificates import TRUST_DOMAIN, spiffe
from tests.integration.snapshots import local, policy

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
DB = WorkloadIdentity(TRUST_DOMAIN, "default", "db")
NODE = NodeIdentity(TRUST_DOMAIN, "web-1")
API = spiffe("api")
PORT = 9090
WORKLOADS = (local("api", PORT),)

NO_WEB = policy("no-web", Action.DENY, principals=(WEB.principal,))
ONLY_DB = policy("only-db", Action.ALLOW, principals=(DB.principal,))


def admission_over(state: Snapshot) -> tuple[Admission, Scene]:
    """Give an admission that enforces `state`, and where to look what it did."""
    stage = scene(state)
    return Admission(stage.context), stage


class Streams:
    """Opens streams and notes which were cut, and why."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.cut: list[tuple[str, str]] = []

    def open(self, source: WorkloadIdentity) -> None:
        """Admit and open a stream."""
        admitted = self._admission.admit(source=source, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        self._admission.streams.opened(admitted, lambda outcome: self.cut.append((source.account, outcome)))


class TestAdmit:
    def test_permit(self) -> None:
        """What the policies allow is admitted, with the policy that allowed it."""
        admission, _ = admission_over(snapshot(workloads=WORKLOADS, policies=(ONLY_DB,)))
        admitted = admission.admit(source=DB, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        assert (admitted.permit.policy, admitted.source, admitted.port) == ("default/only-db", DB, PORT)
        assert admitted.local.workload is WORKLOADS[0]

    def test_denial_names_its_policy(self) -> None:
        """A denial is 403, with the policy and an id to find it by in the logs of both ends."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS, policies=(NO_WEB,)))
        refusal = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(refusal, Refusal)
        assert refusal.status == 403
        assert refusal.header == f"denied; policy=default/no-web; id={refusal.decision}"
        (line,) = stage.logged("stream refused")
        assert (line["policy"], line["id"]) == ("default/no-web", refusal.decision)
        assert (line["source"], line["destination"]) == (str(WEB), "default/api")

    def test_denial_by_the_default(self) -> None:
        """Where the mesh's default denies, that is what the header names."""
        state = snapshot(workloads=WORKLOADS, default=DefaultAuthorization.DENY)
        admission, _ = admission_over(state)
        refusal = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(refusal, Refusal)
        assert refusal.header.startswith("denied; policy=mesh-default; id=")

    def test_decision_ids_differ(self) -> None:
        """Each decision has an id of its own."""
        admission, _ = admission_over(snapshot(workloads=WORKLOADS, policies=(NO_WEB,)))
        refusals = [admission.admit(source=WEB, port=PORT, serving=API) for _ in range(10)]
        assert len({each.decision for each in refusals if isinstance(each, Refusal)}) == 10

    def test_unregistered_port(self) -> None:
        """A port that no workload of this host registered is not found, whoever asks."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        refusal = admission.admit(source=WEB, port=22, serving=None)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.header) == (404, f"no_workload; id={refusal.decision}")
        assert stage.counted(telemetry.STREAMS_REFUSED, reason="no_workload") == 1

    def test_port_of_somebody_else(self) -> None:
        """Who verified another identity than the port's now has never reaches the new one."""
        admission, _ = admission_over(snapshot(workloads=WORKLOADS))
        refusal = admission.admit(source=WEB, port=PORT, serving=spiffe("old"))
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.code) == (404, "no_workload")

    def test_caller_that_asked_for_nobody(self) -> None:
        """A peer that sends no SNI reaches whichever workload has the port."""
        admission, _ = admission_over(snapshot(workloads=WORKLOADS))
        assert isinstance(admission.admit(source=WEB, port=PORT, serving=None), Admitted)

    def test_closed_namespace(self) -> None:
        """A namespace that is closed admits nobody, and says which key is to blame."""
        closed = {"default": "authorizationpolicies/default/broken"}
        admission, stage = admission_over(snapshot(workloads=WORKLOADS, closed=closed))
        refusal = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.policy) == (403, "default/broken")
        assert "authorizationpolicies/default/broken" in stage.logged("stream refused")[0]["detail"]

    @pytest.mark.parametrize("default", DefaultAuthorization)
    def test_audit_is_counted(self, default: DefaultAuthorization) -> None:
        """AUDIT policies that match are counted, whatever the decision, and do not change it."""
        watch = policy("watch-web", Action.AUDIT, principals=(WEB.principal,))
        state = snapshot(workloads=WORKLOADS, policies=(watch,), default=default)
        admission, stage = admission_over(state)
        verdict = admission.admit(source=WEB, port=PORT, serving=API)
        admission.admit(source=DB, port=PORT, serving=API)
        assert isinstance(verdict, Admitted) is (default is DefaultAuthorization.ALLOW)
        assert stage.counted(telemetry.AUDITED, policy="default/watch-web") == 1


class TestDecisions:
    def test_every_answer_is_noted(self) -> None:
        """Permits, denials and what is not found are in the decision log, with the ids that were given."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS, policies=(NO_WEB,)))
        call = Call(source_ip="10.0.0.9", destination_ip="10.77.0.1", sni="api")
        denied = admission.admit(source=WEB, port=PORT, serving=API, call=call)
        permitted = admission.admit(source=DB, port=PORT, serving=API, call=call)
        missing = admission.admit(source=DB, port=22, serving=None, call=call)
        assert isinstance(permitted, Admitted)
        noted = [
            (each.outcome, each.reason, each.policy, each.source, each.destination, each.port, each.ids)
            for each in stage.context.decisions.take(0.0)
        ]
        api, nothing = "default/api", ""
        no, yes = Outcome.DENIED, Outcome.PERMITTED
        assert noted == [
            (no, "denied", "default/no-web", str(WEB), api, PORT, (denied.decision,)),
            (yes, "permitted", "", str(DB), api, PORT, (permitted.decision,)),
            (no, "no_workload", "", str(DB), nothing, 22, (missing.decision,)),
        ]

    def test_request_is_kept(self) -> None:
        """What was asked is noted as it was asked, for somebody to ask again."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        call = Call(source_ip="10.0.0.9", destination_ip="10.77.0.1", sni="api")
        admission.admit(source=NODE, port=PORT, serving=API, call=call)
        (decided,) = stage.context.decisions.take(0.0)
        assert decided.source == str(NODE)
        assert (decided.source_ip, decided.destination_ip, decided.sni) == ("10.0.0.9", "10.77.0.1", "api")


class TestJudgeAgain:
    def test_cuts_what_is_no_longer_allowed(self) -> None:
        """A new DENY cuts the streams it matches, naming itself, and leaves the others."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        streams = Streams(admission)
        streams.open(WEB)
        streams.open(DB)
        stage.enforce(snapshot(revision=2, workloads=WORKLOADS, policies=(NO_WEB,)))
        admission.streams.judge_again()
        assert streams.cut == [("web", "policy: default/no-web")]
        (line,) = stage.logged("stream cut")
        assert (line["policy"], line["source"]) == ("default/no-web", str(WEB))
        assert stage.counted(telemetry.STREAMS_CUT, workload="default/api") == 1

    def test_change_that_allows_the_same_cuts_nothing(self) -> None:
        """Streams that are still allowed notice nothing, even if another policy allows them now."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        streams = Streams(admission)
        streams.open(DB)
        stage.enforce(snapshot(revision=2, workloads=WORKLOADS, policies=(ONLY_DB,)))
        admission.streams.judge_again()
        assert streams.cut == []

    def test_withdrawn_workload(self) -> None:
        """When a workload is no longer registered its streams are cut."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        streams = Streams(admission)
        streams.open(WEB)
        stage.enforce(snapshot(revision=2))
        admission.streams.judge_again()
        assert streams.cut == [("web", "policy: workload_withdrawn")]

    def test_port_that_changed_hands(self) -> None:
        """When a port has another identity than the one that was called, its streams are cut."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        streams = Streams(admission)
        streams.open(WEB)
        stage.enforce(snapshot(revision=2, workloads=(local("other", PORT),)))
        admission.streams.judge_again()
        assert len(streams.cut) == 1

    def test_closed_streams_are_forgotten(self) -> None:
        """A stream that has ended is not judged any more."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        admitted = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        cut: list[str] = []
        stream = admission.streams.opened(admitted, cut.append)
        admission.streams.closed(stream)
        admission.streams.closed(stream)
        stage.enforce(snapshot(revision=2))
        admission.streams.judge_again()
        assert cut == []

    def test_cut_may_close_others(self) -> None:
        """Cutting one stream may end others at once, while they are being judged."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        admitted = admission.admit(source=WEB, port=PORT, serving=API)
        assert isinstance(admitted, Admitted)
        streams: list[OpenStream] = []

        def close_all(_: str) -> None:
            for stream in streams:
                admission.streams.closed(stream)

        streams += [admission.streams.opened(admitted, close_all) for _ in range(4)]
        stage.enforce(snapshot(revision=2))
        admission.streams.judge_again()
        assert admission.streams._open == set()

    def test_namespace_that_closes_keeps_its_streams(self) -> None:
        """A broken edit closes a namespace for new streams; those that were admitted go on."""
        admission, stage = admission_over(snapshot(workloads=WORKLOADS))
        streams = Streams(admission)
        streams.open(WEB)
        closed = {"default": "authorizationpolicies/default/broken"}
        stage.enforce(snapshot(revision=2, workloads=WORKLOADS, closed=closed))
        admission.streams.judge_again()
        assert streams.cut == []
        assert isinstance(admission.admit(source=WEB, port=PORT, serving=API), Refusal)

    def test_audits_of_open_streams_are_not_counted_again(self) -> None:
        """AUDIT counts requests: judging a stream again is none."""
        watch = policy("watch-web", Action.AUDIT, principals=(WEB.principal,))
        state = snapshot(workloads=WORKLOADS, policies=(watch,))
        admission, stage = admission_over(state)
        Streams(admission).open(WEB)
        admission.streams.judge_again()
        assert stage.counted(telemetry.AUDITED) == 1
