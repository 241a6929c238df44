"""What a plan is made of, from the agent's compiled state or, while it is away, from its cache."""

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from node_proxy.agent.cache import Cache
from node_proxy.agent.capture.terms import CaptureRules, CaptureView, HostPort
from node_proxy.agent.compile import Compiled, Compiler
from node_proxy.agent.credentials import Keyring
from node_proxy.agent.reply_rules import reply_rules
from node_proxy.agent.source_routing import families_of
from node_proxy.agent.state import MeshState
from node_proxy.agent.vouching import Vouching
from node_proxy.certificate import read_roots
from node_proxy.config import NodeConfig, ProxyConfig
from node_proxy.snapshot import ExternalServiceView, ServiceView
from registry.store.signed import Signatures

# What a URL without a port means.
_HTTPS = 443


def capture_rules(config: NodeConfig) -> CaptureRules:
    """Give the operator's settings as the plan wants them."""
    proxy = config.proxy
    capture = proxy.capture
    return CaptureRules(
        port=capture.port,
        mark=proxy.mark,
        inbound_port=capture.inbound_port if capture.inbound else None,
        services=capture.services,
        endpoints=capture.endpoints,
        include_users=tuple(each for each in capture.include_users if isinstance(each, int)),
        exclude_users=tuple(each for each in capture.exclude_users if isinstance(each, int)),
        include_cgroups=capture.include_cgroups,
        exclude_cgroups=capture.exclude_cgroups,
        exempt_ports=(*capture.exempt_ports, *sorted({each.port for each in proxy.tunnel.listen} - {0})),
        control=tuple(control_addresses(proxy)),
        own_addresses=(str(ipaddress.ip_address(proxy.address)),),
        answers=tuple(reply_rules(proxy.mark)) if families_of(config) else (),
    )


def control_addresses(proxy: ProxyConfig) -> Iterable[HostPort]:
    """Give where etcd and the registry are: host and port."""
    for endpoint in proxy.etcd.endpoints:
        host, _, port = endpoint.rpartition(":")
        if host and port.isdigit():
            yield host.strip("[]"), int(port)
    url = urlsplit(proxy.registry)
    if url.hostname:
        yield url.hostname, url.port or _HTTPS


def capture_view(config: NodeConfig, compiled: Compiled) -> CaptureView:
    """Give what the mesh says as the plan wants it."""
    services = compiled.snapshot.services
    # One outside the mesh is reached by a virtual IP too; where it has a service's name, both are taken.
    named: list[ServiceView | ExternalServiceView] = [*services, *compiled.snapshot.externals]
    vips: dict[str, tuple[str, ...]] = {}
    for each in named:
        vips[each.name] = (*vips.get(each.name, ()), *each.vips)
    return CaptureView(
        vip_ranges=compiled.vip_ranges,
        vips=vips,
        ports={each.name: tuple(port.port for port in each.ports) for each in named},
        endpoints={
            service.name: tuple(
                (endpoint.address, endpoint.port) for port in service.ports for endpoint in port.endpoints
            )
            for service in services
        },
        workload_ports=tuple(port for workload in config.workloads for port in workload.ports),
    )


def cached_view(config: NodeConfig) -> CaptureView:
    """Give what the mesh said when the agent last wrote its cache; the mesh's defaults when it never has.

    Raises:
        EnrolmentError, ConfigError: this node has not joined.
    """
    state_dir = Path(config.proxy.state_dir)
    enrolment = Keyring(state_dir).enrolment()
    state = MeshState(
        trust_domain=enrolment.trust_domain,
        trust=lambda: enrolment,
        vouching=Vouching(
            Signatures(trust_domain=enrolment.trust_domain, roots=read_roots(enrolment.roots)),
            lambda: datetime.now(UTC),
            enrolment.revocations,
        ),
    )
    if (cached := Cache(state_dir).load()) is not None:
        state.restore(cached.revision, cached.records)
    compiler = Compiler(config, trust_domain=enrolment.trust_domain)
    return capture_view(config, compiler.compile(state, own={}, now=0.0))
