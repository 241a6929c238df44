from node_proxy.dataplane import ejection
from node_proxy.dataplane.ejection import FIRST_EJECTION, LONGEST_EJECTION, MAX_REMEMBERED, Ejections
from node_proxy.snapshot import Endpoint
from tests.integration.certificates import spiffe
from tests.integration.snapshots import endpoint

API = spiffe("api")


def at(port: int) -> Endpoint:
    """Give the endpoint at a port of one node."""
    return endpoint("api-1", "10.77.0.2", 15008, port, identity=API)


def test_nothing_is_ejected_at_first() -> None:
    """An endpoint of which nothing is known is used."""
    assert not Ejections().ejected(at(80), 0.0)


def test_first_failure_ejects_for_a_while() -> None:
    """One failed connect ejects at once, and not for ever."""
    ejections = Ejections()
    assert ejections.failed(at(80), 100.0) == FIRST_EJECTION
    assert ejections.ejected(at(80), 100.0 + FIRST_EJECTION - 0.01)
    assert not ejections.ejected(at(80), 100.0 + FIRST_EJECTION)


def test_other_endpoints_are_untouched() -> None:
    """Endpoints are ejected one by one."""
    ejections = Ejections()
    ejections.failed(at(80), 0.0)
    assert not ejections.ejected(at(81), 0.0)


def test_time_doubles_up_to_a_limit() -> None:
    """Each failure in a row, after the ejection before, doubles the time, up to the longest."""
    ejections = Ejections()
    times = [ejections.failed(at(80), LONGEST_EJECTION * turn) for turn in range(20)]
    assert times[:4] == [FIRST_EJECTION * factor for factor in (1, 2, 4, 8)]
    assert times[-1] == LONGEST_EJECTION


def test_failures_of_a_crowd() -> None:
    """What fails while the endpoint is ejected already neither counts nor makes it longer."""
    ejections = Ejections()
    ejections.failed(at(80), 0.0)
    assert [ejections.failed(at(80), FIRST_EJECTION / 2) for _ in range(20)] == [None] * 20
    assert not ejections.ejected(at(80), FIRST_EJECTION)
    assert ejections.failed(at(80), FIRST_EJECTION) == 2 * FIRST_EJECTION


def test_success_clears() -> None:
    """One success forgives all failures."""
    ejections = Ejections()
    ejections.failed(at(80), 0.0)
    ejections.failed(at(80), FIRST_EJECTION)
    ejections.succeeded(at(80))
    assert not ejections.ejected(at(80), FIRST_EJECTION)
    assert ejections.failed(at(80), FIRST_EJECTION) == FIRST_EJECTION


def test_success_of_an_unknown_endpoint() -> None:
    """A success where nothing had failed changes nothing."""
    ejections = Ejections()
    ejections.succeeded(at(80))
    ejections.failed(at(81), 0.0)
    ejections.succeeded(at(80))
    assert ejections.ejected(at(81), 0.0)


def test_memory_is_bounded() -> None:
    """However many endpoints fail over the years, what is remembered stays small."""
    ejections = Ejections()
    for port in range(1, MAX_REMEMBERED + 100):
        ejections.failed(at(port), 0.0)
    assert len(ejections._failures) <= ejection.MAX_REMEMBERED


def test_weight_and_health_do_not_matter() -> None:
    """An endpoint is the same one after its weight or health has changed."""
    ejections = Ejections()
    ejections.failed(at(80), 0.0)
    changed = Endpoint(
        node="api-1",
        workload="default/other-name",
        address="10.77.0.2",
        port=80,
        tunnel_port=15009,
        identity=API,
        server_name="x",
        weight=1,
        healthy=False,
    )
    assert ejections.ejected(changed, 0.0)
