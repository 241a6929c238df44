"""Whether a workload's callers must have an identity: PeerAuthentication, as Istio reads it.

Pure. For each port the narrowest level that says something decides: the port's mode in the
PeerAuthentication that selects the workload, that one's own mode, the namespace's, the mesh's, the mesh's
settings. Of several at one level the first by name counts (Istio: the oldest; there are no ages here), and
lint names the others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from registry.model.peer_authentication import MtlsMode, PeerAuthentication

MESH_SETTINGS: Final = "spec.mtlsMode"


@dataclass(frozen=True, slots=True)
class Requirement:
    """Whether an identity is required, says `policy` (empty: the mesh's settings) in its field `path`."""

    required: bool
    policy: str
    path: str


@dataclass(frozen=True, slots=True)
class PeerRequirements:
    """What holds for one workload: `ports` are those that differ from `otherwise`."""

    otherwise: Requirement
    ports: Mapping[int, Requirement]

    def of(self, port: int) -> Requirement:
        """Give what holds for a port."""
        return self.ports.get(port, self.otherwise)


def peer_requirements(
    peers: Iterable[PeerAuthentication],
    *,
    namespace: str,
    labels: Mapping[str, str],
    mode: MtlsMode,
    root_namespace: str,
) -> PeerRequirements:
    """Find what holds for a workload; `mode` is that of the mesh's settings."""
    levels: dict[int, PeerAuthentication] = {}
    for each in sorted(peers, key=lambda peers: peers.name):
        level = level_of(each, namespace=namespace, labels=labels, root_namespace=root_namespace)
        if level is not None:
            levels.setdefault(level, each)
    otherwise = Requirement(mode is not MtlsMode.PERMISSIVE, "", MESH_SETTINGS)
    for _, each in sorted(levels.items()):
        if each.spec.mtls.mode is not MtlsMode.UNSET:
            required = each.spec.mtls.mode is MtlsMode.STRICT
            otherwise = Requirement(required, each.name, "spec.mtls.mode")
    ports: dict[int, Requirement] = {}
    if (narrowest := levels.get(WORKLOAD)) is not None:
        for port, mtls in narrowest.spec.port_level_mtls.items():
            if mtls.mode is not MtlsMode.UNSET:
                path = f'spec.portLevelMtls["{port}"].mode'
                ports[int(port)] = Requirement(mtls.mode is MtlsMode.STRICT, narrowest.name, path)
    return PeerRequirements(otherwise, ports)


# Levels, the wider first.
MESH: Final = 0
NAMESPACE: Final = 1
WORKLOAD: Final = 2


def level_of(
    peers: PeerAuthentication, *, namespace: str, labels: Mapping[str, str], root_namespace: str
) -> int | None:
    """Say at which level a PeerAuthentication is about a workload; None when it is not."""
    selected = peers.spec.labels
    if selected:
        inside = peers.metadata.namespace == namespace and selected.items() <= labels.items()
        return WORKLOAD if inside else None
    if peers.metadata.namespace == namespace and namespace != root_namespace:
        return NAMESPACE
    return MESH if peers.metadata.namespace == root_namespace else None
