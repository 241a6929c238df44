"""Conditions on HTTP where no HTTP is read: such a policy is never ignored, it is rejected by name.

Pure. The policy still guards what it selects, on the safe side (`registry.rules.matching`): in ALLOW the rule
never matches, in DENY it matches whatever the request.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from registry.model.authorization import Action, AuthorizationPolicy, Operation
from registry.model.service import PortProtocol, Service
from registry.rules import facts
from registry.rules.matching import CompiledRule, Condition, all_hold, compile_policy

# The protocols whose requests the proxies read, of `auto` those connections that turn out to be HTTP: rules
# about requests allow nothing in the others. What is not read is carried as bytes.
READ_PROTOCOLS: Final[frozenset[PortProtocol]] = frozenset(
    {PortProtocol.HTTP, PortProtocol.HTTP2, PortProtocol.GRPC, PortProtocol.AUTO}
)
_MEND: Final = "set the port's protocol to http in the Service, or name other ports under to.operation.ports"


@dataclass(frozen=True, slots=True)
class Unenforceable:
    """A field about HTTP of a rule that concerns a port whose HTTP is not read."""

    path: str
    reason: str
    mend: str

    def describe(self) -> str:
        """Give it in one line."""
        return f"{self.path}: {self.reason}; {self.mend}"


def has_layer7(policy: AuthorizationPolicy) -> bool:
    """Whether any rule has a field about HTTP."""
    return any(
        any(_asks_http(to.operation) for to in rule.to) or any(each.header for each in rule.when)
        for rule in policy.spec.rules
    )


def _asks_http(operation: Operation) -> bool:
    return bool(
        operation.hosts
        or operation.not_hosts
        or operation.methods
        or operation.not_methods
        or operation.paths
        or operation.not_paths
    )


def find_unenforceable(
    policy: AuthorizationPolicy,
    ports: Mapping[int, PortProtocol],
    *,
    of: str,
) -> Iterator[Unenforceable]:
    """Find the rules of `policy` that cannot be enforced in full; one complaint for each.

    Args:
        policy: selects what `ports` belong to.
        ports: the ports of a workload, and what they speak.
        of: what the ports belong to, for people.
    """
    if not has_layer7(policy):
        return
    for rule in compile_policy(policy).rules:
        for path in rule.layer7[:1]:
            for port, protocol in sorted(ports.items()):
                if protocol not in READ_PROTOCOLS and _concerns(rule, port):
                    yield Unenforceable(path, _reason(policy, port, protocol, of), _MEND)
                    break


def protocols_of(
    services: Collection[Service], *, namespace: str, labels: Mapping[str, str], ports: Collection[int]
) -> dict[int, PortProtocol]:
    """Say what a workload's ports speak, as the services before it declare; what none declares is tcp.

    Where services disagree the port is one whose HTTP cannot be relied upon; but for the version of HTTP,
    which each connection shows by itself.
    """
    found: dict[int, PortProtocol] = {}
    for service in services:
        if service.selects(namespace, dict(labels)):
            for port in service.spec.ports:
                declared = found.setdefault(port.target, port.protocol)
                if declared is not port.protocol:
                    both = declared.http and port.protocol.http
                    found[port.target] = PortProtocol.HTTP if both else PortProtocol.TCP
    return {port: found.get(port, PortProtocol.TCP) for port in ports}


def _concerns(rule: CompiledRule, port: int) -> bool:
    """Whether the rule can match at `port`, for all that its conditions on ports say."""
    known = facts.Facts("", "", "", port, "", "", "", "", "", "", "", None)

    def may(conditions: tuple[Condition, ...]) -> bool:
        return all_hold([each for each in conditions if each.subject == facts.PORT], known)

    targets = [conditions for conditions in rule.read.targets if may(conditions)]
    if not may(rule.read.when) or (rule.read.targets and not targets):
        return False
    layer7 = (*rule.read.when, *(each for conditions in targets for each in conditions))
    return any(condition.layer7 for condition in layer7)


def _reason(policy: AuthorizationPolicy, port: int, protocol: PortProtocol, of: str) -> str:
    effect = (
        "the rule allows nothing there"
        if policy.spec.action is Action.ALLOW
        else "the rule matches every request there"
    )
    return f"needs HTTP, and port {port} of {of} is {protocol.value}: {effect}"
