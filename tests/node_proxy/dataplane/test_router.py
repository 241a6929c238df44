"""Where destinations lead."""

import msgspec
import pytest
import trio

from node_proxy.dataplane.destination import Destination
from node_proxy.dataplane.direct import Direct
from node_proxy.dataplane.external_table import ExternalRoute
from node_proxy.dataplane.passthrough import Passage
from node_proxy.dataplane.router import Lead, MeshNames, Router
from node_proxy.dataplane.tables import Route
from node_proxy.snapshot import ServiceView
from tests.fakes.context import scene
from tests.integration.certificates import spiffe
from tests.integration.snapshots import endpoint, service
from tests.node_proxy.dataplane.leaving import HOST, external, outside
from tests.node_proxy.dataplane.source import make_outbound

NAMES = MeshNames("mesh", "default")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.mesh", "default/api"),
        ("api.shop.mesh", "shop/api"),
        ("mesh", ""),
        ("a.b.c.mesh", ""),
        ("api.smesh", None),
        ("mesh.example", None),
        ("api", None),
    ],
)
def test_names_of_the_mesh(host: str, name: str | None) -> None:
    """A service is called by its name and namespace below the domain, in the default one without that."""
    assert NAMES.service(host) == name


def test_longer_domain() -> None:
    """The mesh's domain may have several labels, and another default."""
    names = MeshNames("mesh.corp.example", "shop")
    assert names.service("api.mesh.corp.example") == "shop/api"
    assert names.service("api.mesh") is None


def of(name: str, *vips: str) -> ServiceView:
    there = endpoint("api-1", "10.77.0.2", 15008, 8080, identity=spiffe("api"))
    return msgspec.structs.replace(service(name, 80, there), vips=vips)


async def lead(host: str, port: int = 80, *, passing: bool = False) -> Lead | None:
    """Say where a destination leads in a mesh of services, some of them external."""
    services = (of("default/api", "240.240.0.1"), of("shop/ext", "240.240.0.2"))
    externals = (external(target=8080), external(target=9, name="shop/ext", hosts=("b.example",), vips=()))
    context = scene(msgspec.structs.replace(outside(*externals), services=services)).context
    async with trio.open_nursery() as nursery:
        router = Router(
            context,
            outbound=make_outbound(context, nursery),
            direct=Direct(context, nursery),
            names=NAMES,
            passage=Passage(context, frozenset()) if passing else None,
        )
        found = router.find(Destination(host, port))
        nursery.cancel_scope.cancel()
    return found


@pytest.mark.parametrize(
    ("host", "kind", "name"),
    [
        ("240.240.0.1", Route, "default/api"),
        ("api.mesh", Route, "default/api"),
        ("api.default.mesh", Route, "default/api"),
        ("240.240.0.9", ExternalRoute, "default/ext"),
        ("fd6d:6573:6800::9", ExternalRoute, "default/ext"),
        ("ext.mesh", ExternalRoute, "default/ext"),
        (HOST, ExternalRoute, "default/ext"),
        ("ext.shop.mesh", Route, "shop/ext"),
        ("b.example", ExternalRoute, "shop/ext"),
    ],
)
@pytest.mark.parametrize("passing", [False, True])
async def test_found(host: str, kind: type[Route | ExternalRoute], name: str, passing: bool) -> None:
    """Services are found by virtual IP and name; of two of one name the one of the mesh."""
    found = await lead(host, passing=passing)
    assert isinstance(found, kind)
    assert found.service == name


async def test_endpoint() -> None:
    """The address of an endpoint leads to it through the mesh, not past it."""
    for passing in (False, True):
        found = await lead("10.77.0.2", 8080, passing=passing)
        assert isinstance(found, Route)
        assert (found.service, [each.at for each in found.endpoints]) == ("default/api", ["10.77.0.2:8080"])


@pytest.mark.parametrize(
    ("host", "port"),
    [("api.mesh", 81), ("nobody.mesh", 80), ("240.240.0.77", 80), ("240.240.0.1", 81), (HOST, 81)],
)
async def test_inside_and_nowhere(host: str, port: int) -> None:
    """What the mesh has the say of and does not have leads nowhere, though other things may pass."""
    assert await lead(host, port, passing=True) is None


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "c.example", "api", "api.smesh"])
async def test_outside(host: str) -> None:
    """What is no service passes where that is allowed, and leads nowhere else."""
    assert await lead(host, passing=True) == Destination(host, 80)
    assert await lead(host) is None
