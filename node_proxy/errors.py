"""The node proxy's errors.

::

    NodeProxyError
    ├── LocalProtocolError    our own bug: we tried to send or do what the protocol forbids
    ├── RemoteProtocolError   the peer's fault: it broke HTTP/2 or the tunnel's rules
    ├── TunnelClosed          the tunnel ended (GOAWAY, EOF, keepalive) under an open stream
    ├── PeerIdentityError     the peer proved another identity than the one expected, or none
    ├── HandshakeError        TLS failed; says which side refused and why
    ├── TunnelRefused         the peer answered CONNECT with something other than 200
    ├── DialError             an endpoint or a workload could not be reached
    ├── NoEndpoint            a service has no endpoint that may be tried; says why for each
    ├── EnrolmentError        the registry would not let this node join, or renew
    └── ConfigError           the operator's file; says file, place and what to write instead

A denial by policy is a value (`registry.rules.Denied`), not an exception.
"""

from node_proxy.address import join_address


class NodeProxyError(Exception):
    """Base of every error the node proxy raises on purpose."""


class LocalProtocolError(NodeProxyError):
    """We tried to do what the protocol forbids: a bug of ours."""


class RemoteProtocolError(NodeProxyError):
    """The peer broke the protocol. `code` is the HTTP/2 error code to answer with (RFC 9113 section 7)."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class TunnelClosed(NodeProxyError):
    """The tunnel ended; the message says how."""


class PeerIdentityError(NodeProxyError):
    """The peer's certificate carries another identity than expected.

    `reason` is a short word for metrics: ``bad_identity`` (no SPIFFE ID, several, or malformed),
    ``trust_domain`` (of another mesh) or ``peer_identity`` (somebody else of this mesh).
    """

    def __init__(self, *, expected: str, presented: str, reason: str) -> None:
        super().__init__(f"expected {expected}, but the peer presented {presented}")
        self.expected = expected
        self.presented = presented
        self.reason = reason


class HandshakeError(NodeProxyError):
    """TLS could not be set up; `reason` is a short word for metrics, the message is for people."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TunnelRefused(NodeProxyError):
    """The peer answered CONNECT with `status`; `reason` is its nodemesh-reason header, if any."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the peer refused the stream with {status}: {reason or 'no reason given'}")
        self.status = status
        self.reason = reason


class DialError(NodeProxyError):
    """A workload or a peer at `address` could not be connected to; `code` is an errno, 0 for other causes."""

    def __init__(self, host: str, port: int, cause: str, *, code: int = 0) -> None:
        self.address = join_address(host, port)
        self.code = code
        super().__init__(f"cannot connect to {self.address}: {cause}")


class NoEndpoint(NodeProxyError):
    """`service` has nothing to offer; `why_each` says why, endpoint by endpoint."""

    def __init__(self, service: str, why_each: tuple[str, ...]) -> None:
        super().__init__(f"no endpoint of {service}: " + ("; ".join(why_each) or "none is registered"))
        self.service = service
        self.why_each = why_each


class EnrolmentError(NodeProxyError):
    """The registry refused to enrol this node or to sign for it."""


class ConfigError(NodeProxyError):
    """The operator's configuration is wrong; the message names file, place and mend."""
