import pytest

from registry.model.service import PortProtocol
from registry.rules.routing import Backend, HttpCall, RouteBook
from tests.registry.rules.routing.documents import API, SERVICES, V1, V2, grpc, http, path, rule, tcp

ROOT = HttpCall(method="GET", host="api", path="/")
TCP_V1, TCP_V2 = {"name": "v1", "port": 70}, {"name": "v2", "port": 70}


def names(backends: tuple[Backend, ...]) -> list[tuple[str, int, bool]]:
    return [(each.service, each.weight, each.known) for each in backends]


class TestTables:
    @pytest.mark.parametrize("port", [70, 99])
    def test_no_table(self, port: int) -> None:
        """A port that does not speak HTTP, and one that is not there, have no rules."""
        book = RouteBook(http_routes=((http(rule()), 1),), services=SERVICES)
        assert book.table(API, port, None) is None

    def test_unknown_parent(self) -> None:
        """A route of a service that the mesh does not know is nobody's."""
        book = RouteBook(http_routes=((http(rule(), parentRefs=[{"name": "gone"}]), 1),), services=SERVICES)
        assert book.table("default/gone", 80, None) is None
        assert book.table(API, 80, None) is None

    def test_kept(self) -> None:
        """A table is made once for all callers of whose namespace no route is."""
        book = RouteBook(http_routes=((http(rule()), 1),), services=SERVICES)
        table = book.table(API, 80, "default")
        assert table is not None
        assert all(book.table(API, 80, f"other-{i}") is table for i in range(100))

    def test_one_for_each_namespace_with_routes(self) -> None:
        """Callers of a namespace with routes of its own have another table than all others."""
        theirs = http(rule(path("/x")), name="shop/route")
        book = RouteBook(http_routes=((http(rule()), 1), (theirs, 2)), services=SERVICES)
        shop, default = book.table(API, 80, "shop"), book.table(API, 80, None)
        assert shop is not default
        assert shop is not None
        assert shop.match(ROOT) is None


class TestRenew:
    def test_same(self) -> None:
        """The book of equal routes and ports is the former one, with its tables."""
        first = RouteBook.renew(None, http_routes=((http(rule()), 1),), services=SERVICES)
        assert RouteBook.renew(first, http_routes=((http(rule()), 1),), services=dict(SERVICES)) is first

    @pytest.mark.parametrize(
        "change",
        [
            {"http_routes": ()},
            {"http_routes": ((http(rule()), 2),)},
            {"http_routes": ((http(rule(to=V2)), 1),)},
            {"services": {API: {80: PortProtocol.HTTP}}},
            {"grpc_routes": ((grpc({"backendRefs": [V1]}), 1),)},
            {"tcp_routes": ((tcp(TCP_V1), 1),)},
        ],
    )
    def test_changed(self, change: dict[str, object]) -> None:
        """Any change makes a new book."""
        given = {"http_routes": ((http(rule()), 1),), "services": SERVICES}
        first = RouteBook.renew(None, **given)  # type: ignore[arg-type]
        assert RouteBook.renew(first, **(given | change)) is not first  # type: ignore[arg-type]


class TestTcp:
    def test_none(self) -> None:
        """Without a route there are no backends: connections go to the port itself."""
        assert RouteBook(services=SERVICES).tcp(API, 70, None) == ()

    @pytest.mark.parametrize(("port", "count"), [(70, 2), (71, 2), (80, 0), (90, 0)])
    def test_ports(self, port: int, count: int) -> None:
        """A TCPRoute is for ports that speak tcp, or perhaps do."""
        book = RouteBook(tcp_routes=((tcp(TCP_V1, TCP_V2), 1),), services=SERVICES)
        assert len(book.tcp(API, port, None)) == count

    def test_weights_and_unknown(self) -> None:
        """Backends have their weights, and one that the mesh does not know keeps its share."""
        route = tcp(TCP_V1 | {"weight": 9}, {"name": "gone", "port": 70})
        book = RouteBook(tcp_routes=((route, 1),), services=SERVICES)
        found = tuple(book.tcp(API, 70, None))
        assert names(found) == [("default/v1", 9, True), ("default/gone", 1, False)]

    def test_oldest(self) -> None:
        """Of several routes the oldest holds."""
        book = RouteBook(
            tcp_routes=((tcp(TCP_V1, name="a"), 9), (tcp(TCP_V2, name="b"), 3)), services=SERVICES
        )
        assert names(tuple(book.tcp(API, 70, None))) == [("default/v2", 1, True)]

    def test_consumer(self) -> None:
        """A route of the caller's namespace takes the place of the service's own."""
        routes = ((tcp(TCP_V1), 1), (tcp({"name": "mine", "port": 70}, name="shop/route"), 2))
        book = RouteBook(tcp_routes=routes, services=SERVICES)
        assert [each.service for each in book.tcp(API, 70, "shop")] == ["shop/mine"]
        assert [each.service for each in book.tcp(API, 70, "default")] == ["default/v1"]

    def test_beside_http(self) -> None:
        """A namespace's HTTPRoute does not take the place of the service's TCPRoute."""
        mine = http(rule(), name="shop/route")
        book = RouteBook(http_routes=((mine, 1),), tcp_routes=((tcp(TCP_V1), 1),), services=SERVICES)
        assert [each.service for each in book.tcp(API, 71, "shop")] == ["default/v1"]
