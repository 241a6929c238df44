"""Which policies hold for which workload; each policy is compiled once, however many workloads it selects.

Pure. What has not changed since the former version is taken over from it, indexes included: most changes of
the mesh are about endpoints, and must not cost the compiling of ten thousand policies.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from registry.model.authorization import AuthorizationPolicy
from registry.model.mesh import DefaultAuthorization
from registry.model.peer_authentication import MtlsMode, PeerAuthentication
from registry.model.resource import ROOT_NAMESPACE
from registry.rules.authorize import Asked, WorkloadPolicies
from registry.rules.matching import CompiledPolicy, compile_policy
from registry.rules.peers import peer_requirements

_Place = tuple[str, tuple[tuple[str, str], ...], tuple[str, ...]]


class MeshPolicies:
    """All policies of the mesh, ready to be picked for one workload after the other.

    Args:
        policies: of all namespaces.
        trust_domain: the mesh's; namespaces and accounts are those of its own callers alone.
        peers: of all namespaces.
        mode: the mesh's own setting, where no PeerAuthentication says otherwise.
        default: what holds where no ALLOW policy selects a workload.
        root_namespace: its policies select in every namespace.
        former: what is replaced, for what of it is still the same.
    """

    def __init__(
        self,
        policies: Iterable[AuthorizationPolicy],
        *,
        trust_domain: str,
        peers: Iterable[PeerAuthentication] = (),
        mode: MtlsMode = MtlsMode.STRICT,
        default: DefaultAuthorization,
        root_namespace: str = ROOT_NAMESPACE,
        former: "MeshPolicies | None" = None,
    ) -> None:
        self._root_namespace = root_namespace
        self._trust_domain = trust_domain
        self._mode = mode
        self._default = default
        self._peers = tuple(peers)
        known = {} if former is None else former.compiled
        self.compiled: dict[str, tuple[AuthorizationPolicy, CompiledPolicy]] = {}
        self._by_namespace: dict[str, list[tuple[AuthorizationPolicy, CompiledPolicy]]] = defaultdict(list)
        for policy in sorted(policies, key=lambda policy: policy.name):
            before = known.get(policy.name)
            pair = before if before and before[0] == policy else (policy, compile_policy(policy))
            self.compiled[policy.name] = pair
            self._by_namespace[policy.metadata.namespace].append(pair)
        self.asked: dict[_Place, Asked] = {}
        self._former_asked = {} if former is None else former.asked

    def of(
        self,
        *,
        namespace: str,
        labels: Mapping[str, str],
        services: Collection[str] = (),
        closed_by: str | None = None,
    ) -> WorkloadPolicies:
        """Pick the policies that hold for a workload.

        Args:
            namespace: the workload's.
            labels: the workload's.
            services: those it is behind, as ``namespace/name``; for policies with `targetRefs`.
            closed_by: the key of a policy of this namespace that never parsed: every request is refused.
        """
        return WorkloadPolicies(
            asked=self._asked_of(namespace, labels, services),
            peers=peer_requirements(
                self._peers,
                namespace=namespace,
                labels=labels,
                mode=self._mode,
                root_namespace=self._root_namespace,
            ),
            default=self._default,
            trust_domain=self._trust_domain,
            closed_by=closed_by,
        )

    def _asked_of(self, namespace: str, labels: Mapping[str, str], services: Collection[str]) -> Asked:
        place = (namespace, tuple(sorted(labels.items())), tuple(sorted(services)))
        if (asked := self.asked.get(place)) is not None:
            return asked
        behind = frozenset(services)
        selecting = [
            compiled
            for where in dict.fromkeys((namespace, self._root_namespace))
            for policy, compiled in self._by_namespace.get(where, ())
            if selects(policy, labels, behind)
        ]
        selecting.sort(key=lambda policy: policy.name)
        former = self._former_asked.get(place)
        asked = former if former is not None and former.is_of(selecting) else Asked(selecting)
        self.asked[place] = asked
        return asked


def compile_policies(
    policies: Iterable[AuthorizationPolicy],
    *,
    trust_domain: str,
    namespace: str,
    labels: Mapping[str, str],
    default: DefaultAuthorization,
    services: Collection[str] = (),
    peers: Iterable[PeerAuthentication] = (),
    mode: MtlsMode = MtlsMode.STRICT,
    closed_by: str | None = None,
    root_namespace: str = ROOT_NAMESPACE,
) -> WorkloadPolicies:
    """Pick the policies that hold for one workload; the arguments are those of `MeshPolicies`."""
    mesh = MeshPolicies(
        policies,
        trust_domain=trust_domain,
        peers=peers,
        mode=mode,
        default=default,
        root_namespace=root_namespace,
    )
    return mesh.of(namespace=namespace, labels=labels, services=services, closed_by=closed_by)


def selects(policy: AuthorizationPolicy, labels: Mapping[str, str], services: frozenset[str]) -> bool:
    """Whether a policy selects a workload of a namespace that it reaches."""
    spec = policy.spec
    if spec.target_refs:
        return not policy.targets.isdisjoint(services)
    return spec.selector is None or spec.selector.match_labels.items() <= labels.items()
