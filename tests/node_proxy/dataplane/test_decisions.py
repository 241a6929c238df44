from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.decisions import MAX_SHOWN, MAX_SORTS, DecisionLog
from registry.model.decision import MAX_IDS, Outcome, RecordedRequest
from registry.model.identity import NodeIdentity, WorkloadIdentity
from registry.rules import AuthRequest, HttpRequest
from tests.integration.certificates import TRUST_DOMAIN

WEB = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
NODE = NodeIdentity(TRUST_DOMAIN, "web-1")


def note(
    log: DecisionLog,
    decision: str,
    *,
    source: WorkloadIdentity | NodeIdentity = WEB,
    port: int = 80,
    destination: str = "default/api",
    outcome: Outcome = Outcome.DENIED,
    now: float = 0.0,
    http: HttpRequest | None = None,
    opening: bool = False,
) -> None:
    """Note a decision on a call from 10.77.0.2."""
    log.note(
        source,
        AuthRequest(source, port, source_ip="10.77.0.2", http=http, opening=opening),
        destination=destination,
        outcome=outcome,
        reason="denied",
        policy="default/p",
        decision=decision,
        now=now,
    )


def test_one_sort_is_one_entry() -> None:
    """Decisions that differ in their time alone are counted together, with the first and the last time."""
    log = DecisionLog()
    for second in (1.0, 2.0, 5.0):
        note(log, f"id-{second:.0f}", now=second)
    (decided,) = log.take(10.0)
    assert (decided.count, decided.first_ago, decided.last_ago) == (3, 9.0, 5.0)
    assert decided.ids == ("id-1", "id-2", "id-5")
    assert (decided.source, decided.source_ip) == (str(WEB), "10.77.0.2")
    assert (decided.destination, decided.port, decided.policy) == ("default/api", 80, "default/p")


def test_what_differs_is_apart() -> None:
    """Another port, caller or answer is an entry of its own."""
    log = DecisionLog()
    note(log, "a")
    note(log, "b", port=81)
    note(log, "c", source=NODE)
    note(log, "d", outcome=Outcome.PERMITTED)
    assert [each.ids for each in log.take(0.0)] == [("a",), ("b",), ("c",), ("d",)]


def test_a_node_is_named() -> None:
    """A node that calls for nobody is recorded by its name, though the rules take it for nobody."""
    log = DecisionLog()
    note(log, "a", source=NODE)
    assert log.take(0.0)[0].source == str(NODE)


def test_latest_ids_of_denials() -> None:
    """Of denials the latest ids are kept, of permits the last."""
    log = DecisionLog()
    for number in range(20):
        note(log, f"d{number}")
        note(log, f"p{number}", outcome=Outcome.PERMITTED)
    denied, permitted = log.take(0.0)
    assert denied.ids == tuple(f"d{number}" for number in range(20 - MAX_IDS, 20))
    assert permitted.ids == ("p19",)


def test_taking_begins_anew() -> None:
    """What was taken is not given again."""
    log = DecisionLog()
    note(log, "a")
    assert len(log.take(0.0)) == 1
    assert log.take(0.0) == ()
    note(log, "b")
    assert log.take(0.0)[0].count == 1


def test_bounded() -> None:
    """Of more sorts than are kept the newest are, and how many were lost is known."""
    log = DecisionLog()
    for port in range(1, MAX_SORTS + 4):
        note(log, str(port), port=port)
    taken = log.take(0.0)
    assert [taken[0].port, taken[-1].port, len(taken)] == [4, MAX_SORTS + 3, MAX_SORTS]
    assert log.lost == 3


def test_a_port_scan_is_one_entry() -> None:
    """Who tries every port that no workload has pushes nobody else's decisions out."""
    log = DecisionLog()
    note(log, "mine")
    for port in range(1, 3 * MAX_SORTS):
        note(log, str(port), port=port, destination="")
    mine, scan = log.take(0.0)
    assert mine.ids == ("mine",)
    assert (scan.port, scan.count) == (3 * MAX_SORTS - 1, 3 * MAX_SORTS - 1)
    assert log.lost == 0


@given(
    st.lists(
        st.tuples(st.sampled_from([80, 81, 82]), st.sampled_from(Outcome), st.sampled_from([WEB, NODE])),
        max_size=50,
    )
)
def test_counts_add_up(calls: list[tuple[int, Outcome, WorkloadIdentity | NodeIdentity]]) -> None:
    """However decisions come, each is counted once, and the entry decided last is the last."""
    log = DecisionLog()
    for number, (port, outcome, source) in enumerate(calls):
        note(log, str(number), port=port, outcome=outcome, source=source, now=float(number))
    taken = log.take(float(len(calls)))
    assert sum(each.count for each in taken) == len(calls)
    assert [each.last_ago for each in taken] == sorted((each.last_ago for each in taken), reverse=True)
    if calls:
        assert taken[-1].ids[-1] == str(len(calls) - 1)


def test_requests() -> None:
    """Requests are apart from the connections they come over, and recorded by what the last one asked for."""
    log = DecisionLog()
    note(log, "a", opening=True)
    note(log, "b", http=HttpRequest("GET", "/x", "api"))
    note(log, "c", http=HttpRequest("PUT", "/a/../y?token=1", "api", {"authorization": "secret"}))
    opened, asked = log.take(0.0)
    assert (opened.opening, opened.request, opened.ids) == (True, None, ("a",))
    assert asked.ids == ("b", "c")
    assert asked.request == RecordedRequest(method="PUT", host="api", path="/y")


def test_a_request_is_bounded() -> None:
    """Of what a caller sends no more is kept than people need, and nothing that is no text."""
    log = DecisionLog()
    note(log, "a", http=HttpRequest("GET", "/" + "x" * 10_000, "h\udcff" * 1000))
    (decided,) = log.take(0.0)
    assert decided.request is not None
    assert len(decided.request.path) == MAX_SHOWN
    assert decided.request.host.isascii()
