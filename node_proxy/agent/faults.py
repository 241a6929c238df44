"""The errors that policies make on purpose, in words: nobody should look long for an outage that was ordered.

No I/O.
"""

from collections.abc import Iterable, Iterator

from registry.model.backend_policy import BackendPolicy, Fault


def faults_in_force(policies: Iterable[BackendPolicy]) -> tuple[str, ...]:
    """Say in a line each which faults are on; one that strikes no request at all is off."""
    return tuple(
        f"{fault.name} of BackendPolicy {policy.name}: of {'some ' if fault.matches else ''}requests to "
        f"{', '.join(policy.targets)} {' and '.join(effects)}"
        for policy in policies
        for fault in policy.spec.faults
        if (effects := list(_effects(fault)))
    )


def _effects(fault: Fault) -> Iterator[str]:
    if fault.delay is not None and fault.delay.percent:
        yield f"{fault.delay.percent:g} % wait {fault.delay.duration}"
    if fault.abort is not None and fault.abort.percent:
        grpc = f"gRPC status {fault.abort.grpc_status}"
        answer = grpc if fault.abort.http_status is None else fault.abort.http_status
        yield f"{fault.abort.percent:g} % are answered with {answer}"
