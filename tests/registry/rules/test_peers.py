"""Which PeerAuthentication decides whether callers need an identity."""

from typing import Any

import pytest

from registry.model.parse import from_builtins
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.rules import AuthRequest, Denied, Permit, authorize, explain
from tests.registry.rules.policies import NODE, WEB, compiled, policy

STRICT = {"mode": "STRICT"}
PERMISSIVE = {"mode": "PERMISSIVE"}
UNSET = {"mode": "UNSET"}
ROOT = "nodemesh-system"


def peers(name: str = "p", *, namespace: str = "default", app: str = "", **spec: Any) -> PeerAuthentication:
    """Give a PeerAuthentication; `app` selects workloads."""
    if app:
        spec["selector"] = {"matchLabels": {"app": app}}
    resource = from_builtins(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        },
        where="test",
    )
    assert isinstance(resource, PeerAuthentication)
    return resource


MESH_WIDE = peers("mesh", namespace=ROOT, mtls=STRICT)
NAMESPACE_WIDE = peers("namespace", mtls=PERMISSIVE)
OF_API = peers("workload", app="api", mtls=STRICT)
OF_PORT = peers("ports", app="api", mtls=STRICT, portLevelMtls={"80": PERMISSIVE, "81": UNSET})


@pytest.mark.parametrize(
    ("resources", "mode", "required", "by", "path"),
    [
        ([], MtlsMode.STRICT, True, "", "spec.mtlsMode"),
        ([], MtlsMode.PERMISSIVE, False, "", "spec.mtlsMode"),
        ([MESH_WIDE], MtlsMode.PERMISSIVE, True, f"{ROOT}/mesh", "spec.mtls.mode"),
        ([MESH_WIDE, NAMESPACE_WIDE], MtlsMode.STRICT, False, "default/namespace", "spec.mtls.mode"),
        ([MESH_WIDE, NAMESPACE_WIDE, OF_API], MtlsMode.STRICT, True, "default/workload", "spec.mtls.mode"),
        ([NAMESPACE_WIDE, OF_PORT], MtlsMode.STRICT, False, "default/ports", 'spec.portLevelMtls["80"].mode'),
        ([peers("other", app="web", mtls=PERMISSIVE)], MtlsMode.STRICT, True, "", "spec.mtlsMode"),
        ([peers("other", namespace="batch", mtls=PERMISSIVE)], MtlsMode.STRICT, True, "", "spec.mtlsMode"),
        (
            [NAMESPACE_WIDE, peers("unset", app="api", mtls=UNSET, portLevelMtls={"99": STRICT})],
            MtlsMode.STRICT,
            False,
            "default/namespace",
            "spec.mtls.mode",
        ),
        (
            [peers("b", mtls=PERMISSIVE), peers("a", mtls=STRICT)],
            MtlsMode.PERMISSIVE,
            True,
            "default/a",
            "spec.mtls.mode",
        ),
    ],
    ids=[
        "strict",
        "permissive",
        "mesh",
        "namespace",
        "workload",
        "port",
        "another-workload",
        "another-namespace",
        "unset",
        "first-by-name",
    ],
)
def test_precedence(
    resources: list[PeerAuthentication], mode: MtlsMode, required: bool, by: str, path: str
) -> None:
    """The port's mode decides, else the workload's, the namespace's, the mesh's, the mesh's settings."""
    ready = compiled([], peers=resources, mode=mode)
    assert ready.require_identity(80) is required
    requirement = explain(ready, AuthRequest(WEB, 80)).identity
    assert (requirement.required, requirement.policy, requirement.path) == (required, by, path)
    assert isinstance(authorize(ready, AuthRequest(None, 80)), Denied) is required
    assert isinstance(authorize(ready, AuthRequest(WEB, 80)), Permit)


def test_unset_port() -> None:
    """A port that is unset is as its workload."""
    ready = compiled([], peers=[OF_PORT], mode=MtlsMode.PERMISSIVE)
    assert ready.require_identity(81)
    assert not ready.require_identity(80)
    assert ready.require_identity(443)


def test_the_mesh_requires_identities_by_default() -> None:
    """Where nothing is said of it an identity is required."""
    assert compiled([], mode=MtlsMode.UNSET).require_identity(80)


@pytest.mark.parametrize("source", [None, NODE])
def test_refusal(source: Any) -> None:
    """Who is refused for want of an identity learns which PeerAuthentication wants it, and in which field."""
    ready = compiled([policy("a", {})], peers=[MESH_WIDE])
    assert authorize(ready, AuthRequest(source, 80)) == Denied(
        f"{ROOT}/mesh",
        f"the caller has no identity, and the PeerAuthentication {ROOT}/mesh requires one "
        "(spec.mtls.mode is STRICT)",
    )


def test_audit_of_the_refused() -> None:
    """Policies that watch see also whom the want of an identity refuses."""
    ready = compiled([policy("w", {}, action="AUDIT")], mode=MtlsMode.STRICT)
    decision = authorize(ready, AuthRequest(None, 80))
    assert (type(decision), decision.audited) == (Denied, ("default/w",))


def test_a_closed_namespace_is_closed_first() -> None:
    """Where a PeerAuthentication never parsed everybody is refused, and its key is named."""
    ready = compiled([], closed_by="peerauthentications/default/broken")
    decision = authorize(ready, AuthRequest(WEB, 80))
    assert decision == Denied(
        "default/broken", "peerauthentications/default/broken never parsed, so its namespace is closed"
    )
