"""The authorization cases that are data, through two proxies: the calls are real, and so are the callers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from node_proxy.dataplane.reason import parse_reason
from registry.model.identity import NodeIdentity, parse_identity
from registry.model.resource import Resource
from registry.model.workload import Health
from tests.fakes.signers import enrolment
from tests.integration.hbone import Header
from tests.lab.impostors import Ear, ask, distrusted, hbone, told
from tests.lab.world import (
    CALLED,
    CALLED_ADDRESS,
    CALLING,
    DATABASE,
    LISTENERS,
    PERMISSIVE,
    REFUSED,
    ROGUE,
    ROGUE_ADDRESS,
    WORLD,
    Judged,
    Stage,
    open_stage,
    spoken_identity,
)
from tests.node_proxy.agent.documents import node, spiffe, workload
from tests.registry.rules.cases import Case, Scenario, read_scenarios
from tests.support.processes import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

SCENARIOS = [
    pytest.param(scenario, id=f"{file}: {scenario.name}")
    for file, scenario in read_scenarios()
    if scenario.replayable()
]


@dataclass(frozen=True)
class Played:
    """A scenario that is in force, who answered its calls, and how long the destination's log was before."""

    cases: list[Case]
    answers: list[str]
    since: int


@pytest.fixture(scope="module")
def stage(as_root: None) -> Iterator[Stage]:
    """Give the mesh of the cases."""
    with open_stage() as opened:
        yield opened


@pytest.fixture(scope="module", params=SCENARIOS)
def played(request: pytest.FixtureRequest, stage: Stage) -> Played:
    """Put a scenario in force and make its calls."""
    scenario: Scenario = request.param
    stage.enforce(scenario.documents(), scenario.settings())
    since = stage.records()
    cases = scenario.replayable()
    return Played(cases, stage.play(cases), since)


def test_calls(played: Played) -> None:
    """Each call is answered by whom it was for, or refused, as its case expects."""
    assert played.answers == [
        f"{case.to}:{case.port}" if case.verdict == "allow" else REFUSED for case in played.cases
    ]


def test_log(stage: Stage, played: Played) -> None:
    """The destination logs of each call who made it, the verdict, and the policy that its case names."""
    assert stage.wait_judged(played.since, len(played.cases)) == Counter(
        Judged(spoken_identity(case.caller), case.to, case.port, case.verdict, case.by)
        for case in played.cases
    )


def test_registry(stage: Stage, played: Played) -> None:
    """What `meshctl authz check` asks is answered alike, by the same policy and rule."""
    for case in played.cases:
        said = stage.check(case)
        expected = ({"allow": "permitted", "deny": "denied"}[case.verdict], case.by)
        assert (said.outcome, said.policy) == expected, case
        assert case.rule is None or said.rule == case.rule, case
        assert (said.workload, said.identity.authenticated) == (
            case.to,
            WORLD.callers[case.caller].identity is not None,
        )


# Who lies about who they are.

GUARD: dict[str, object] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "guard"},
    "spec": {
        "selector": {"matchLabels": {"app": "db"}},
        "rules": [
            {"from": [{"source": {"principals": [f"{WORLD.trust_domain}/ns/default/sa/web"]}}]},
            # An address that nobody here has.
            {"from": [{"source": {"remoteIpBlocks": ["203.0.113.9/32"]}}]},
        ],
    },
}
SERVED = "default/db:5432"


@pytest.fixture
def guarded(stage: Stage) -> Stage:
    """Let only web call the database."""
    stage.enforce([GUARD], PERMISSIVE)
    return stage


def test_anothers_listener(guarded: Stage) -> None:
    """A listener that is for one workload gives nobody else its identity, nor any other."""
    since = guarded.records()
    answers = {
        (caller, listener): guarded.call(caller, *DATABASE, listener=listener)
        for caller in ("web", "api")
        for listener in LISTENERS
    }
    assert {pair for pair, answer in answers.items() if answer == SERVED} == {("web", "web")}
    by = "default/guard"
    assert guarded.wait_judged(since, 4) == Counter(
        {
            Judged(spoken_identity("web"), *DATABASE, "allow", by): 1,
            Judged(spoken_identity("api"), *DATABASE, "deny", by): 1,
            Judged(spoken_identity("nobody"), *DATABASE, "deny", by): 2,
        }
    )


def test_exchanged_ports(guarded: Stage) -> None:
    """Two callers that exchange the ports they call from stay who they are."""
    address, since = guarded.calling.host.address, guarded.records()
    for web, api in ((21_001, 21_002), (21_002, 21_001)):
        assert guarded.call("web", *DATABASE, source=(address, web)) == SERVED
        assert guarded.call("api", *DATABASE, source=(address, api)) == REFUSED
    assert guarded.wait_judged(since, 4) == Counter(
        {
            Judged(spoken_identity("web"), *DATABASE, "allow", "default/guard"): 2,
            Judged(spoken_identity("api"), *DATABASE, "deny", "default/guard"): 2,
        }
    )


@pytest.mark.parametrize(
    "header",
    [
        (b"baggage", b"source.principal=%s"),
        (b"forwarded", b'for=203.0.113.9;by="%s"'),
        (b"x-forwarded-for", b"203.0.113.9"),
        (b"x-forwarded-client-cert", b"By=spiffe://nodemesh.local/ns/default/sa/db;URI=%s"),
        (b"nodemesh-source", b"%s"),
        (b"nodemesh-reason", b"permitted; policy=default/guard"),
    ],
    ids=lambda header: header[0].decode(),
)
def test_forged_header(guarded: Stage, header: Header) -> None:
    """What a host writes into its CONNECT makes it nobody else, though its own certificate is good."""
    name, value = header
    since = guarded.records()
    forged = value.replace(b"%s", spoken_identity("web").encode())
    with hbone(guarded, NodeIdentity(WORLD.trust_domain, CALLING)) as client:
        stream = ask(client, (name, forged))
        assert (stream.status, parse_reason(stream.reason).policy) == (403, "default/guard")
    assert guarded.wait_judged(since, 1) == Counter(
        [Judged(spoken_identity("nobody"), *DATABASE, "deny", "default/guard")]
    )


def test_hosts_own_workload(guarded: Stage) -> None:
    """The client that forges is a good one: with a certificate of web, which its host holds, it is let in."""
    with hbone(guarded, parse_identity(spoken_identity("web"))) as client:
        assert ask(client).status == 200


# A word that a node may say of itself, and those that it may not.
ROGUE_RECORD: dict[str, Resource] = {f"nodes/{ROGUE}/record": node(ROGUE, ROGUE_ADDRESS)}
FOREIGN_IDENTITY: dict[str, Resource] = {
    f"nodes/{ROGUE}/workloads/default/db": workload("db", on=ROGUE, app="db", ports=(DATABASE[1],))
}
FOREIGN_LABELS: dict[str, Resource] = {
    f"nodes/{ROGUE}/workloads/default/{ROGUE}": workload(
        ROGUE, on=ROGUE, app="db", identity=spiffe(ROGUE), ports=(DATABASE[1],)
    )
}
LIES: dict[str, Mapping[str, Resource]] = {
    "an identity it may not hold": ROGUE_RECORD | FOREIGN_IDENTITY,
    "labels of a service that it may not serve": ROGUE_RECORD | FOREIGN_LABELS,
    "the address of another": {f"nodes/{ROGUE}/record": node(ROGUE, CALLED_ADDRESS)} | FOREIGN_LABELS,
    "another's record": {f"nodes/{CALLED}/record": node(CALLED, ROGUE_ADDRESS)},
    "another's workload": {
        f"nodes/{CALLED}/workloads/default/db": workload("db", on=CALLED, app="db", health=Health.UNHEALTHY)
    },
    "its own enrolment": ROGUE_RECORD
    | FOREIGN_IDENTITY
    | {f"enrolments/{ROGUE}": enrolment(ROGUE, spiffe(ROGUE), spiffe("db"), enrolled_at=datetime.now(UTC))},
}


@pytest.mark.parametrize("lie", LIES)
def test_lie(stage: Stage, lie: str) -> None:
    """A node that has joined, and signs such a word, gets no traffic by it, takes none away, and is named."""
    stage.enforce((), PERMISSIVE)
    with Ear(stage.rogue) as ear, told(stage, LIES[lie]):
        wait_until(
            lambda: LIES[lie].keys() - ROGUE_RECORD.keys() <= distrusted(stage.calling),
            what="the lie to be named",
            deadline=10,
        )
        assert {stage.call("web", *DATABASE) for _ in range(8)} == {SERVED}
        assert ear.heard == 0


def test_true_word(stage: Stage) -> None:
    """The same word draws traffic once the authority lets the node hold the identity."""
    stage.enforce((), PERMISSIVE)
    stage.mesh.meshctl("node", "allow", ROGUE, "--identity", "default/db")
    try:
        with Ear(stage.rogue) as ear, told(stage, ROGUE_RECORD | FOREIGN_IDENTITY):
            wait_until(
                lambda: stage.call("web", *DATABASE) and ear.heard,
                what="a call at the other node",
                deadline=10,
            )
    finally:
        stage.mesh.meshctl("node", "forbid", ROGUE, "--identity", "default/db")
