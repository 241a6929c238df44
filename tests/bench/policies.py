"""What a decision costs as the policies of a workload grow: ``python -m tests.bench.policies``.

Each shape is a way to write policies about many callers; some requests are answered by one of the last, some
by none. The figures that count are the ratios to ten policies.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from registry.model.authorization import AuthorizationPolicy
from registry.model.identity import WorkloadIdentity
from registry.model.mesh import DefaultAuthorization
from registry.rules import AuthRequest, Decision, MeshPolicies, authorize
from tests.registry.rules.policies import TRUST_DOMAIN, callers, policy, targets

SIZES = (10, 100, 1_000, 10_000)
ROUNDS = 7
CALLER = WorkloadIdentity(TRUST_DOMAIN, "default", "web")
Shape = Callable[[int], AuthorizationPolicy]


def _principals(number: int) -> AuthorizationPolicy:
    return policy(f"p{number:05}", callers({"principals": [f"nodemesh.local/ns/n{number}/sa/web"]}))


def _principals_and_ports(number: int) -> AuthorizationPolicy:
    rule = callers({"principals": [CALLER.principal]}) | targets({"ports": [str(10_000 + number)]})
    return policy(f"p{number:05}", rule)


def _namespaces(number: int) -> AuthorizationPolicy:
    return policy(f"p{number:05}", callers({"namespaces": [f"n{number}"]}), action="DENY")


def _accounts(number: int) -> AuthorizationPolicy:
    return policy(f"p{number:05}", callers({"serviceAccounts": [f"n{number}/web", f"n{number}/api"]}))


def _prefixes(number: int) -> AuthorizationPolicy:
    return policy(f"p{number:05}", callers({"principals": [f"nodemesh.local/ns/n{number}/*"]}))


def _networks(number: int) -> AuthorizationPolicy:
    block = f"10.{number // 256}.{number % 256}.0/24"
    return policy(f"p{number:05}", callers({"ipBlocks": [block]}), action="DENY")


def _mixed(number: int) -> AuthorizationPolicy:
    return (_principals, _namespaces, _prefixes, _networks, _principals_and_ports)[number % 5](number)


SHAPES: dict[str, Shape] = {
    "one principal each": _principals,
    "one port each": _principals_and_ports,
    "one namespace each, DENY": _namespaces,
    "two accounts each": _accounts,
    "one prefix each": _prefixes,
    "one network each, DENY": _networks,
    "all of these": _mixed,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policies", description="Cost of a decision.")
    parser.add_argument("--decisions", type=int, default=20_000)
    given = parser.parse_args()
    table = Table("policies", "compiled in", "unchanged again", *(f"{size:,}" for size in SIZES), "ratio")
    for name, shape in SHAPES.items():
        policies = [shape(number) for number in range(max(SIZES))]
        costs = [_decision(policies[:size], given.decisions) for size in SIZES]
        built, again = _compiling(policies)
        table.add_row(
            name,
            f"{built * 1e3:.0f} ms",
            f"{again * 1e3:.0f} ms",
            *(f"{cost * 1e6:.2f} µs" for cost in costs),
            f"{costs[-1] / costs[0]:.2f}",
        )
    Console(width=120).print(table)


def _decision(policies: Sequence[AuthorizationPolicy], count: int) -> float:
    """Give the seconds of one decision, in the round that was disturbed least."""
    ready = _compile(policies).of(namespace="default", labels={})
    requests = [
        AuthRequest(CALLER, 10_000 + len(policies) // 2, source_ip="192.0.2.1"),
        AuthRequest(
            WorkloadIdentity("nodemesh.local", f"n{len(policies) - 1}", "web"), 80, source_ip="10.0.0.1"
        ),
    ]
    decisions: list[Decision] = [authorize(ready, request) for request in requests]
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count // ROUNDS // 2):
            for request in requests:
                authorize(ready, request)
        seconds.append((time.perf_counter() - began) / (count // ROUNDS // 2 * 2))
    assert decisions == [authorize(ready, request) for request in requests]
    return min(seconds)


def _compiling(policies: Sequence[AuthorizationPolicy]) -> tuple[float, float]:
    """Give the seconds of making all policies ready, and of doing so again with the same, decoded anew."""
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(policies), type=tuple[AuthorizationPolicy, ...])
    began = time.perf_counter()
    mesh = _compile(policies)
    request = AuthRequest(CALLER, 80)
    authorize(mesh.of(namespace="default", labels={}), request)
    built = time.perf_counter() - began
    began = time.perf_counter()
    again = _compile(decoded, mesh)
    authorize(again.of(namespace="default", labels={}), request)
    return built, time.perf_counter() - began


def _compile(policies: Sequence[AuthorizationPolicy], former: MeshPolicies | None = None) -> MeshPolicies:
    return MeshPolicies(
        policies, trust_domain=TRUST_DOMAIN, default=DefaultAuthorization.ALLOW, former=former
    )


if __name__ == "__main__":
    main()
