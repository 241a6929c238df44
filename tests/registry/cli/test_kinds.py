import pytest

from registry.cli.kinds import InvalidTarget, Target, label_of, locate, parse_name, parse_target
from registry.model.authorization import AuthorizationPolicy
from registry.model.backend_policy import BackendPolicy
from registry.model.grpc_route import GRPCRoute
from registry.model.http_route import HTTPRoute
from registry.model.mesh import Mesh
from registry.model.peer_authentication import PeerAuthentication
from registry.model.resource import Resource
from registry.model.service import Service
from registry.model.tcp_route import TCPRoute


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("services", Service),
        ("service", Service),
        ("svc", Service),
        ("Service", Service),
        ("SVC", Service),
        ("authorizationpolicies", AuthorizationPolicy),
        ("AuthorizationPolicy", AuthorizationPolicy),
        ("authz", AuthorizationPolicy),
        ("ap", AuthorizationPolicy),
        ("peerauthentications", PeerAuthentication),
        ("PeerAuthentication", PeerAuthentication),
        ("pa", PeerAuthentication),
        ("mesh", Mesh),
        ("httproutes", HTTPRoute),
        ("hr", HTTPRoute),
        ("grpcroute", GRPCRoute),
        ("gr", GRPCRoute),
        ("TCPRoute", TCPRoute),
        ("tr", TCPRoute),
        ("backendpolicies", BackendPolicy),
        ("bp", BackendPolicy),
    ],
)
def test_kinds_have_plural_singular_and_short_names(word: str, kind: type[Resource]) -> None:
    """A kind is known by its plural, singular and short names, in any case."""
    assert parse_target(word) == Target(kind)


def test_a_name_may_follow_the_kind() -> None:
    """KIND/NAME says a name and leaves the namespace open."""
    assert parse_target("svc/web") == Target(Service, None, "web")


def test_a_label_names_its_resource() -> None:
    """What `-o name` prints is read back as the same resource."""
    label = label_of(locate(AuthorizationPolicy, "shop", "deny"))
    assert parse_target(label) == Target(AuthorizationPolicy, "shop", "deny")


def test_a_misspelt_kind_gets_a_guess() -> None:
    """An unknown kind is answered with the nearest known one."""
    with pytest.raises(InvalidTarget, match="did you mean 'services'"):
        parse_target("servcies")


def test_kinds_that_nodes_write_lead_to_their_command() -> None:
    """Asking for nodes here says which command shows them."""
    with pytest.raises(InvalidTarget, match="meshctl node list"):
        parse_target("nodes")


@pytest.mark.parametrize("text", ["svc/../mesh", "svc/Web", "svc/", "svc/a/b/c", "svc/a b"])
def test_what_cannot_be_a_name_is_refused(text: str) -> None:
    """A name that could walk out of its place in a URL is never sent."""
    with pytest.raises(InvalidTarget):
        parse_target(text)


def test_a_namespace_may_stand_before_a_name() -> None:
    """NAMESPACE/NAME is read as both."""
    name = parse_name("shop/web")
    assert (name.namespace, name.name) == ("shop", "web")


def test_the_mesh_lives_in_the_root_namespace() -> None:
    """Without a namespace the mesh is looked for where it is."""
    assert locate(Mesh, None, "mesh").namespace == "nodemesh-system"
