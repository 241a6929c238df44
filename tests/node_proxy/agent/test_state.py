import msgspec
import pytest

from node_proxy.agent import state as state_module
from node_proxy.agent.state import MeshState
from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import DefaultAuthorization
from registry.model.parse import render
from registry.model.service import Service
from registry.store.base import Progress
from tests.node_proxy.agent.documents import (
    BAD,
    TRUST_DOMAIN,
    changed,
    mesh,
    node_with,
    policy,
    relisted,
    removed,
    service,
)

API = "services/default/api"
POLICY = "authorizationpolicies/default/p"


@pytest.fixture
def state() -> MeshState:
    return MeshState(trust_domain=TRUST_DOMAIN)


def test_good_value_is_in_force(state: MeshState) -> None:
    """A value that parses is in force at its revision."""
    assert state.apply(changed(API, service(), 5))
    assert dict(state.of(Service)) == {API: service()}
    assert state.revision == 5
    assert state.rejections() == ()


def test_bad_value_keeps_the_last_good(state: MeshState) -> None:
    """A later value that does not parse changes nothing but is reported with what stays in force."""
    state.apply(changed(API, service(), 5))
    assert state.apply(changed(API, BAD, 6, created=5))
    assert dict(state.of(Service)) == {API: service()}
    (rejection,) = state.rejections()
    assert rejection.key == API
    assert rejection.last_good_revision == 5
    assert "kind" in rejection.reason
    assert state.revision == 6


def test_mended_value_clears_the_rejection(state: MeshState) -> None:
    """A good value after a bad one is in force, and nothing is rejected any more."""
    state.apply(changed(API, BAD, 5))
    state.apply(changed(API, service(), 6))
    assert dict(state.of(Service)) == {API: service()}
    assert state.rejections() == ()


def test_deletion_clears_everything(state: MeshState) -> None:
    """Deleting a key ends its last good version and its rejection."""
    state.apply(changed(API, service(), 5))
    state.apply(changed(API, BAD, 6, created=5))
    assert state.apply(removed(API, 7))
    assert list(state.of(Service)) == []
    assert state.rejections() == ()
    assert state.revision == 7


def test_policy_that_never_parsed_closes_its_namespace(state: MeshState) -> None:
    """A namespace with a policy nobody has ever understood is closed; mending or deleting it opens it."""
    state.apply(changed(POLICY, BAD, 5))
    assert state.closed_namespaces() == {"default": POLICY}
    state.apply(changed(POLICY, policy(), 6, created=5))
    assert state.closed_namespaces() == {}
    state.apply(changed(POLICY, BAD, 7, created=5))
    assert state.closed_namespaces() == {}
    state.apply(removed(POLICY, 8))
    state.apply(changed(POLICY, BAD, 9))
    assert state.closed_namespaces() == {"default": POLICY}
    state.apply(removed(POLICY, 10))
    assert state.closed_namespaces() == {}


def test_root_policy_that_never_parsed_closes_all(state: MeshState) -> None:
    """A policy in the root namespace may select anything, so every namespace is closed."""
    key = "authorizationpolicies/nodemesh-system/p"
    state.apply(changed(key, BAD, 5))
    assert state.closed_namespaces() == {"*": key}


def test_bad_service_closes_nothing(state: MeshState) -> None:
    """Only a policy that is not understood could have been meant to refuse."""
    state.apply(changed(API, BAD, 5))
    assert state.closed_namespaces() == {}


def test_mesh_that_never_parsed_denies_by_default(state: MeshState) -> None:
    """Without any mesh settings the default allows; with settings nobody understands it refuses."""
    assert state.mesh().default_authorization is DefaultAuthorization.ALLOW
    state.apply(changed("mesh", BAD, 5))
    assert state.mesh().default_authorization is DefaultAuthorization.DENY
    state.apply(changed("mesh", mesh(), 6, created=5))
    assert state.mesh().default_authorization is DefaultAuthorization.ALLOW


def test_mesh_of_another_trust_domain_is_refused(state: MeshState) -> None:
    """An edit of the trust domain cannot take the node's identity away."""
    state.apply(changed("mesh", mesh(DefaultAuthorization.DENY), 5))
    state.apply(changed("mesh", mesh(trust_domain="other.example"), 6, created=5))
    assert state.mesh() == mesh(DefaultAuthorization.DENY).spec
    assert "other.example" in state.rejections()[0].reason


def test_service_of_another_trust_domain_is_refused(state: MeshState) -> None:
    """A service whose identities no certificate can carry keeps its last good version."""
    state.apply(changed(API, service(), 5))
    state.apply(changed(API, service(identities=["spiffe://other.example/ns/a/sa/b"]), 6, created=5))
    assert dict(state.of(Service)) == {API: service()}
    assert "spec.identities" in state.rejections()[0].reason


def test_value_under_another_name_is_refused(state: MeshState) -> None:
    """What a value calls itself must be what its key says."""
    state.apply(changed("services/default/web", service("api"), 5))
    assert list(state.of(Service)) == []
    assert [each.key for each in state.rejections()] == ["services/default/web"]


@pytest.mark.parametrize(
    "key",
    [
        "tlsroutes/default/x",
        "status/httproutes/default/x",
        "nodes/web-2/status",
        "nodes/web-2/decisions",
        "tokens/abc",
        "leader/controller",
        "notes",
    ],
)
def test_other_keys_do_not_matter(state: MeshState, key: str) -> None:
    """Kinds that a node does not enforce are passed over, whatever they hold, and move no revision."""
    assert not state.apply(changed(key, b"anything", 5))
    assert not state.apply(removed(key, 6))
    assert not state.apply(Progress(7))
    assert state.rejections() == ()
    assert state.revision == 0


def test_policy_at_no_place_is_reported(state: MeshState) -> None:
    """A policy written without its namespace is no policy, and the operator is told."""
    state.apply(changed("authorizationpolicies/p", policy(), 5))
    assert list(state.of(AuthorizationPolicy)) == []
    assert "write to authorizationpolicies/<namespace>/<name>" in state.rejections()[0].reason


def test_relisting_forgets_what_is_gone(state: MeshState) -> None:
    """After a gap the listing is the truth: absent keys are deleted, bad ones keep their last good."""
    for event in node_with("api-1", 5):
        state.apply(event)
    state.apply(changed(API, service(), 6))
    state.apply(changed(POLICY, policy(), 7))
    assert state.apply(relisted(20, changed(API, service(port=81), 9), changed(POLICY, BAD, 10, created=7)))
    assert [key for key, _ in state.of(Service)] == [API]
    assert state.get(API, Service) == service(port=81)
    assert [key for key, _ in state.of(AuthorizationPolicy)] == [POLICY]
    assert state.closed_namespaces() == {}
    assert [each.last_good_revision for each in state.rejections()] == [7]
    assert "nodes/api-1/record" not in state
    assert state.revision == 20


def test_relisting_after_an_unseen_deletion(state: MeshState) -> None:
    """A bad value at a key that was deleted in between has no last good version."""
    state.apply(changed(POLICY, policy(), 7))
    state.apply(relisted(20, changed(POLICY, BAD, 12, created=11)))
    assert state.closed_namespaces() == {"default": POLICY}


def test_restored_state_is_the_same() -> None:
    """Both what is in force and what was refused survive a restart."""
    before = MeshState(trust_domain=TRUST_DOMAIN)
    shop = "authorizationpolicies/shop/p"
    for event in [
        changed(API, service(), 5),
        changed(API, BAD, 6, created=5),
        changed(POLICY, policy(), 7),
        changed(shop, BAD, 8),
        *node_with("api-1", 9),
    ]:
        before.apply(event)
    after = MeshState(trust_domain=TRUST_DOMAIN)
    after.restore(before.revision, before.records())
    assert after.revision == 9
    assert after.rejections() == before.rejections()
    assert after.closed_namespaces() == {"shop": shop}
    assert dict(after.of(Service)) == {API: service()}
    assert after.records() == before.records()


def test_making_of_a_key(state: MeshState) -> None:
    """The revision at which a key was made stays through edits, good and bad, until it is gone."""
    state.apply(changed(API, service(), 5))
    state.apply(changed(API, service(port=81), 6, created=5))
    state.apply(changed(API, BAD, 7, created=5))
    assert state.created(API) == 5
    state.apply(removed(API, 8))
    assert state.created(API) == 0
    state.apply(changed(API, service(), 9))
    assert state.created(API) == 9


def test_making_of_a_key_is_cached(state: MeshState) -> None:
    """A restart without the store knows which key is older."""
    state.apply(changed(API, service(), 6, created=5))
    restored = MeshState(trust_domain=TRUST_DOMAIN)
    restored.restore(6, state.records())
    assert restored.created(API) == 5


def test_cache_of_before(state: MeshState) -> None:
    """A cache that did not keep when keys were made is read, and the store's next word on that is taken."""

    class Version(msgspec.Struct, frozen=True):
        raw: bytes
        revision: int

    class Record(msgspec.Struct, frozen=True):
        key: str
        good: Version | None
        bad: Version | None

    was = Record(API, Version(render(service()), 5), Version(BAD, 6))
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(was), type=state_module.Record)
    state.restore(6, [record])
    assert (state.created(API), dict(state.of(Service))) == (0, {API: service()})
    before = state.rejections()
    assert state.apply(relisted(7, changed(API, BAD, 6, created=4)))
    assert (state.created(API), state.rejections()) == (4, before)


def test_same_value_again_does_not_matter(state: MeshState) -> None:
    """A listing that repeats what is known changes nothing."""
    state.apply(changed(API, service(), 5))
    before = state.records()
    assert not state.apply(changed(API, service(), 5))
    assert state.records() == before
