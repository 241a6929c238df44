"""What a resource of the right shape may still get wrong by itself.

Pure. Each check yields problems, the gravest first; none of them looks at other resources.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.model.authorization import Action, AuthorizationPolicy, Operation, Source
from registry.model.enrolment import Enrolment
from registry.model.fields import clip, field_path, show
from registry.model.identity import LABEL, InvalidIdentity, WorkloadIdentity, parse_identity
from registry.model.mesh import Mesh
from registry.model.resource import DEFAULT_TRUST_DOMAIN, ROOT_NAMESPACE, Resource
from registry.model.service import Service
from registry.model.workload import Node, Workload

# Kubernetes: label keys and values, and the domain that may stand before a key.
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_LABEL_DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z"
)
# Fewer addresses than this run out at the first dozens of services.
_MIN_VIP_ADDRESSES: Final = 256
# Where a virtual IP would swallow traffic that is not the mesh's: loopback, link-local, multicast.
_NO_VIPS: Final = tuple(
    map(
        ipaddress.ip_network,
        ("127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "fe80::/10", "ff00::/8"),
    )
)
# Istio's way to say dryRun; as a mere annotation it would be ignored, and the policy enforced.
_ISTIO_DRY_RUN: Final = "istio.io/dry-run"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at the field `path`, why, and what to write instead."""

    path: str
    reason: str
    mend: str = ""


def find_problems(resource: Resource) -> Iterator[Problem]:
    """Give everything that is wrong with `resource` taken alone."""
    yield from _labels(resource.metadata.labels, "metadata.labels")
    yield from _label_keys(resource.metadata.annotations, "metadata.annotations")
    match resource:
        case Service():
            yield from _service(resource)
        case AuthorizationPolicy():
            yield from _policy(resource)
        case Mesh():
            yield from _mesh(resource)
        case Workload():
            yield from _workload_identity(resource.spec.identity, "spec.identity")
        case Node():
            yield from _address(resource.spec.address, "spec.address")
        case Enrolment():
            for i, identity in enumerate(resource.spec.identities):
                yield from _workload_identity(identity, f"spec.identities[{i}]")
        case _:
            pass


def _label_keys(labels: Mapping[str, str], path: str) -> Iterator[Problem]:
    for key in labels:
        domain, slash, name = key.rpartition("/")
        if not _LABEL_NAME.match(name) or (slash and not _LABEL_DOMAIN.match(domain)):
            yield Problem(
                field_path(path, key),
                "is not a well-formed key",
                "write letters, digits, dashes, dots and underscores, at most 63, perhaps after domain/",
            )


def _labels(labels: Mapping[str, str], path: str) -> Iterator[Problem]:
    yield from _label_keys(labels, path)
    for key, value in labels.items():
        if value and not _LABEL_NAME.match(value):
            yield Problem(
                field_path(path, key),
                f"{show(value)} is not a well-formed label value",
                "write letters, digits, dashes, dots and underscores, at most 63, "
                "with a letter or digit at both ends",
            )


def _service(service: Service) -> Iterator[Problem]:
    spec = service.spec
    if not spec.ports:
        yield Problem("spec.ports", "is empty", "write at least one, as in [{port: 80}]")
    yield from _repeated((port.port for port in spec.ports), "spec.ports", "port")
    yield from _repeated((port.name for port in spec.ports), "spec.ports", "name")
    if not spec.selector:
        yield Problem(
            "spec.selector",
            "is empty and would select every workload of the namespace",
            "write labels that only this service's workloads carry",
        )
    yield from _labels(spec.selector, "spec.selector")
    for i, text in enumerate(spec.identities):
        path = f"spec.identities[{i}]"
        if text.startswith("spiffe://"):
            yield from _workload_identity(text, path)
            continue
        try:
            # The trust domain is the mesh's and plays no part in the syntax of the short form.
            WorkloadIdentity.from_short(text, DEFAULT_TRUST_DOMAIN)
        except InvalidIdentity as error:
            yield Problem(path, clip(str(error)))


def _repeated(values: Iterable[object], path: str, field: str) -> Iterator[Problem]:
    first: dict[object, int] = {}
    for i, value in enumerate(values):
        if value is not None and first.setdefault(value, i) != i:
            yield Problem(
                f"{path}[{i}].{field}", f"{value} is already taken by {path}[{first[value]}]", "write another"
            )


def _workload_identity(text: str, path: str) -> Iterator[Problem]:
    try:
        identity = parse_identity(text)
    except InvalidIdentity as error:
        yield Problem(path, clip(str(error)))
    else:
        if not isinstance(identity, WorkloadIdentity):
            yield Problem(
                path,
                f"{show(text)} is a node's identity",
                f"write a workload's: spiffe://{identity.trust_domain}/ns/<namespace>/sa/<account>",
            )


def _address(text: str, path: str) -> Iterator[Problem]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        yield Problem(path, f"{show(text)} is not an IP address")


def _mesh(mesh: Mesh) -> Iterator[Problem]:
    if mesh.metadata.name != "mesh":
        yield Problem(
            "metadata.name", f"{show(mesh.metadata.name)} names no mesh: there is one", "write mesh"
        )
    if mesh.metadata.namespace != ROOT_NAMESPACE:
        yield Problem(
            "metadata.namespace",
            f"the mesh is not in the namespace {show(mesh.metadata.namespace)}",
            f"write {ROOT_NAMESPACE}",
        )
    families: set[int] = set()
    for i, text in enumerate(mesh.spec.vip_ranges):
        path = f"spec.vipRanges[{i}]"
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            yield Problem(
                path, clip(f"is not a network: {error}"), "write one in CIDR form, as in 240.240.0.0/16"
            )
            continue
        if network.version in families:
            yield Problem(
                path, f"is a second IPv{network.version} network", "write at most one of each family"
            )
        families.add(network.version)
        if network.num_addresses < _MIN_VIP_ADDRESSES:
            yield Problem(
                path,
                f"holds only {network.num_addresses} addresses",
                f"write a network of at least {_MIN_VIP_ADDRESSES} addresses",
            )
        for other in _NO_VIPS:
            if network.version == other.version and network.overlaps(other):
                yield Problem(path, f"overlaps {other}", "write a private network that nothing else uses")


def _policy(policy: AuthorizationPolicy) -> Iterator[Problem]:
    spec = policy.spec
    if _ISTIO_DRY_RUN in policy.metadata.annotations:
        yield Problem(
            field_path("metadata.annotations", _ISTIO_DRY_RUN),
            "is not supported, and would be enforced",
            "remove it and write spec.dryRun: true",
        )
    if spec.action is Action.DENY and not spec.rules:
        yield Problem(
            "spec.rules",
            "is empty, so the policy would never deny anything",
            "write [{}] to deny everything, or delete the policy",
        )
    if spec.selector is not None:
        yield from _labels(spec.selector.match_labels, "spec.selector.matchLabels")
    for i, rule in enumerate(spec.rules):
        for j, alternative in enumerate(rule.from_):
            yield from _source(alternative.source, f"spec.rules[{i}].from[{j}].source")
        for j, target in enumerate(rule.to):
            if target.operation == Operation():
                yield Problem(
                    f"spec.rules[{i}].to[{j}].operation",
                    "is empty",
                    "write ports or notPorts; for every port leave `to` out",
                )


def _source(source: Source, path: str) -> Iterator[Problem]:
    if source == Source():
        yield Problem(path, "is empty", "write principals or namespaces; for every caller leave `from` out")
    for field, patterns in (("principals", source.principals), ("notPrincipals", source.not_principals)):
        for i, pattern in enumerate(patterns):
            yield from _principal(pattern, f"{path}.{field}[{i}]")
    for field, patterns in (("namespaces", source.namespaces), ("notNamespaces", source.not_namespaces)):
        for i, pattern in enumerate(patterns):
            yield from _namespace(pattern, f"{path}.{field}[{i}]")


def _principal(pattern: str, path: str) -> Iterator[Problem]:
    if pattern.startswith("spiffe://"):
        bare = pattern.removeprefix("spiffe://")
        yield Problem(path, "begins with spiffe://", f"write it without the scheme: {show(bare)}")
    elif "*" in pattern:
        yield from _wildcard(pattern, path)
    else:
        try:
            parse_identity(f"spiffe://{pattern}")
        except InvalidIdentity:
            # It would never match: harmless in ALLOW, an open door in DENY.
            yield Problem(
                path,
                f"{show(pattern)} is nobody's identity",
                "write <trust domain>/ns/<namespace>/sa/<account>, or <trust domain>/node/<name>",
            )


def _namespace(pattern: str, path: str) -> Iterator[Problem]:
    if "*" in pattern:
        yield from _wildcard(pattern, path)
    elif not LABEL.match(pattern):
        yield Problem(
            path, f"{show(pattern)} is no namespace's name", "write lower-case letters, digits and dashes"
        )


def _wildcard(pattern: str, path: str) -> Iterator[Problem]:
    if pattern.count("*") > 1 or not (pattern.startswith("*") or pattern.endswith("*")):
        yield Problem(
            path,
            f"{show(pattern)} has a * where none can be",
            "write a value, prefix*, *suffix or * alone; several patterns make a list",
        )
