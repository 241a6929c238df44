"""What an ExternalService of the right shape may still get wrong by itself. Pure."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from registry.model.external_service import ExternalService, ExternalTls, ExternalTlsMode, Resolution
from registry.model.fields import clip, show
from registry.model.problem import Problem, repeated_problems
from registry.model.service import PortProtocol
from registry.model.value_checks import check_principal

# More names or addresses than these are a list that some program made; one name that resolves serves as well.
_MAX_HOSTS: Final = 16
_MAX_ENDPOINTS: Final = 64
# An enterprise's authorities are some kilobytes each, and every node reads the value at every change.
_MAX_PEM: Final = 64 * 1024
_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\s+[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----", re.ASCII
)
# Where a proxy must not be made to dial on a caller's behalf: itself, its neighbours on the link, crowds.
_NO_ENDPOINTS: Final = tuple(
    map(
        ipaddress.ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10",
         "ff00::/8"),
    )
)  # fmt: skip


def external_problems(external: ExternalService) -> Iterator[Problem]:
    """Give everything that is wrong with an ExternalService taken alone."""
    spec = external.spec
    yield from _counted(len(spec.hosts), _MAX_HOSTS, "spec.hosts", "[api.example.com]")
    yield from repeated_problems(spec.hosts, "spec.hosts", "")
    if not spec.ports:
        yield Problem("spec.ports", "is empty", "write at least one, as in [{number: 443}]")
    yield from repeated_problems((port.number for port in spec.ports), "spec.ports", "number")
    yield from repeated_problems((port.name for port in spec.ports), "spec.ports", "name")
    yield from _addresses(external)
    yield from _tls(spec.tls)
    if spec.tls.mode is ExternalTlsMode.SIMPLE:
        for i, port in enumerate(spec.ports):
            if port.protocol is PortProtocol.TLS:
                yield Problem(
                    f"spec.ports[{i}].protocol",
                    "is tls, so callers speak TLS themselves, and the proxy would wrap it in another",
                    "write tcp or http, or let tls.mode be DISABLE",
                )
    for i, pattern in enumerate(spec.allowed_principals or ()):
        if wrong := check_principal(pattern):
            yield Problem(f"spec.allowedPrincipals[{i}]", *wrong)


def is_outside(address: str) -> bool:
    """Whether a proxy may dial an address on a caller's behalf: not itself, its link, a crowd, a virtual IP.

    Raises:
        ValueError: it is no IP address.
    """
    ip = ipaddress.ip_address(address)
    return not any(ip in network for network in _NO_ENDPOINTS if network.version == ip.version)


def _counted(count: int, most: int, path: str, example: str) -> Iterator[Problem]:
    if not count:
        yield Problem(path, "is empty", f"write at least one, as in {example}")
    elif count > most:
        yield Problem(path, f"holds {count}, more than {most}", "write several ExternalServices")


def _addresses(external: ExternalService) -> Iterator[Problem]:
    spec = external.spec
    if spec.resolution is Resolution.DNS:
        if spec.endpoints:
            yield Problem(
                "spec.endpoints",
                "stands beside resolution DNS, which asks for the first host's addresses",
                "write resolution: STATIC, or remove the endpoints",
            )
        return
    yield from _counted(len(spec.endpoints), _MAX_ENDPOINTS, "spec.endpoints", "[{address: 192.0.2.7}]")
    for i, endpoint in enumerate(spec.endpoints):
        path = f"spec.endpoints[{i}].address"
        try:
            outside = is_outside(endpoint.address)
        except ValueError:
            yield Problem(
                path,
                f"{show(endpoint.address)} is not an IP address",
                "write resolution: DNS to have a name resolved",
            )
            continue
        if not outside:
            yield Problem(
                path,
                f"{show(endpoint.address)} is no address outside the mesh",
                "write a unicast address of another host",
            )


def _tls(tls: ExternalTls) -> Iterator[Problem]:
    if tls.mode is ExternalTlsMode.DISABLE:
        for field, value in (("sni", tls.sni), ("caCertificates", tls.ca_certificates)):
            if value is not None:
                yield Problem(
                    f"spec.tls.{field}", "is given, and TLS is not spoken", "write mode: SIMPLE, or remove it"
                )
        return
    pem = tls.ca_certificates
    if pem is None:
        return
    if len(pem) > _MAX_PEM:
        yield Problem("spec.tls.caCertificates", f"is longer than {_MAX_PEM} characters", "write fewer roots")
    elif "PRIVATE KEY" in pem:
        yield Problem(
            "spec.tls.caCertificates",
            "holds a private key, which every node of the mesh can now read",
            "remove it, and replace that key",
        )
    elif not _CERTIFICATE.search(pem) or _CERTIFICATE.sub("", pem).count("-----"):
        yield Problem(
            "spec.tls.caCertificates",
            clip(f"{show(pem)} holds no whole certificates"),
            "write the certificates themselves, from -----BEGIN CERTIFICATE----- on",
        )
