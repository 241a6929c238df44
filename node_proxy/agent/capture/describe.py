"""What a plan takes in and leaves alone, in words. Pure."""

from collections.abc import Iterable, Iterator

from node_proxy.agent.capture.plan import SSH_PORT, CapturePlan
from node_proxy.agent.capture.terms import CaptureRules, CaptureView
from node_proxy.capture_settings import ALL_SERVICES

# More names than these help nobody who reads a terminal.
_MOST_NAMES = 8


def describe(rules: CaptureRules, view: CaptureView, wanted: CapturePlan) -> Iterator[str]:
    """Say in lines what is taken, of whom, and what never is."""
    services = sorted(filter(rules.wants, view.vips))
    count = sum(len(wanted.elements[name]) for name in ("vips4", "vips6")) - len(wanted.self_check)
    which = "all services" if ALL_SERVICES in rules.services else "chosen services"
    yield (
        f"takes: TCP from this host to {count} virtual IPs of {which} "
        f"({_names(services)}) in {', '.join(wanted.routes)}; it goes to the proxy on port {rules.port}"
    )
    if rules.endpoints:
        count = sum(len(wanted.elements[name]) for name in ("endpoints4", "endpoints6"))
        yield f"takes: TCP from this host to {count} known endpoint addresses"
    whose = [f"user {each}" for each in rules.include_users] + [
        f"cgroup {each}" for each in rules.include_cgroups
    ]
    yield f"of: {_names(whose) if whose else 'every process'}"
    if spared := [f"user {each}" for each in rules.exclude_users] + [
        f"cgroup {each}" for each in rules.exclude_cgroups
    ]:
        yield f"but not of: {_names(spared)}"
    if rules.inbound_port is not None:
        ports = sorted(wanted.elements["inbound_ports"], key=int)
        yield (
            f"takes: TCP from other hosts to the workloads' ports {_names(ports)}; "
            f"it goes to the proxy on port {rules.inbound_port}"
        )
    yield "refuses: TCP to the virtual ranges that is not taken"
    control = [f"{host}:{port}" for host, port in rules.control]
    exempt = sorted({SSH_PORT, *rules.exempt_ports})
    yield (
        f"leaves alone: UDP, loopback, open connections, TCP ports {_names(map(str, exempt))}, "
        f"{_names(control)}, and what carries mark {rules.mark:#x} (the proxy's own)"
    )
    for note in wanted.notes:
        yield f"note: {note}"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    if len(listed) > _MOST_NAMES:
        return f"{', '.join(listed[:_MOST_NAMES])} and {len(listed) - _MOST_NAMES} more"
    return ", ".join(listed) or "none"
