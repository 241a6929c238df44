"""SPIFFE identities: the names that certificates carry and policies compare.

Source: the SPIFFE-ID specification; the path shape ``/ns/<namespace>/sa/<account>`` is Istio's.
"""

import re
from dataclasses import dataclass
from typing import Self

# RFC 1123 label: what a namespace, account, node or service may be called.
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
# A workload's SPIFFE ID does not say on which node it runs, but revoking a node must hit every certificate
# that the node obtained. So each leaf carries its node's name in the non-critical extension Subject Directory
# Attributes (RFC 5280 section 4.2.1.8), as an organizational unit. Not in the subject, which stays empty: an
# operator's intermediate may constrain it. Not in an extension of our own: we have no registered arc, and Go
# refuses certificates with an OID from a UUID (2.25, RFC 9562). Peers of other makes ignore this one.
NODE_EXTENSION = "2.5.29.9"
# id-at-organizationalUnitName (2.5.4.11) in DER.
_UNIT = bytes.fromhex("060355040b")
_SEQUENCE, _SET, _UTF8 = b"\x30", b"\x31", b"\x0c"
# Four tags with their lengths, and the type.
_BEFORE_NAME = 4 * 2 + len(_UNIT)
# SPIFFE trust domain: lower-case letters, digits, dots, dashes, underscores; at most 255 bytes.
TRUST_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}\Z")


class InvalidIdentity(ValueError):
    """Text that is no identity of this mesh; the message says why."""


@dataclass(frozen=True, slots=True, order=True)
class WorkloadIdentity:
    """``spiffe://<trust-domain>/ns/<namespace>/sa/<account>``."""

    trust_domain: str
    namespace: str
    account: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"

    @property
    def principal(self) -> str:
        """The form that Istio's policies use: the SPIFFE ID without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"

    @property
    def server_name(self) -> str:
        """The TLS server name by which a tunnel asks for this identity's certificate."""
        return f"{self.account}.{self.namespace}.sa.{self.trust_domain}"

    @classmethod
    def from_short(cls, text: str, trust_domain: str) -> Self:
        """Read ``namespace/account`` or a full SPIFFE ID.

        Raises:
            InvalidIdentity: the text is neither, or names another trust domain.
        """
        if text.startswith("spiffe://"):
            identity = parse_identity(text)
            if not isinstance(identity, cls):
                raise InvalidIdentity(f"{text!r} is a node's identity; write namespace/account")
            if identity.trust_domain != trust_domain:
                raise InvalidIdentity(f"{text!r} is not in the trust domain {trust_domain!r}")
            return identity
        namespace, slash, account = text.partition("/")
        if not slash or not LABEL.match(namespace) or not LABEL.match(account):
            raise InvalidIdentity(f"{text!r} is not namespace/account (lower-case letters, digits, dashes)")
        return cls(trust_domain, namespace, account)


@dataclass(frozen=True, slots=True, order=True)
class NodeIdentity:
    """``spiffe://<trust-domain>/node/<name>``."""

    trust_domain: str
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/node/{self.name}"

    @property
    def principal(self) -> str:
        """The SPIFFE ID without its scheme."""
        return f"{self.trust_domain}/node/{self.name}"


Identity = WorkloadIdentity | NodeIdentity


def parse_identity(uri: str) -> Identity:
    """Read a SPIFFE ID of the two shapes this mesh uses.

    Raises:
        InvalidIdentity: another scheme, trust domain syntax or path.
    """
    if not uri.startswith("spiffe://"):
        raise InvalidIdentity(f"{uri!r} does not begin with spiffe://")
    trust_domain, _, path = uri.removeprefix("spiffe://").partition("/")
    if not TRUST_DOMAIN.match(trust_domain):
        raise InvalidIdentity(f"{uri!r} has no valid trust domain")
    match path.split("/"):
        case ["ns", namespace, "sa", account] if LABEL.match(namespace) and LABEL.match(account):
            return WorkloadIdentity(trust_domain, namespace, account)
        case ["node", name] if LABEL.match(name):
            return NodeIdentity(trust_domain, name)
        case _:
            raise InvalidIdentity(f"{uri!r} is neither /ns/<namespace>/sa/<account> nor /node/<name>")


def encode_node(name: str) -> bytes:
    """Give the value of the NODE_EXTENSION of a certificate that the node `name` obtained (DER)."""
    # A name has at most 63 bytes, so every length fits in one.
    if not LABEL.match(name):
        raise InvalidIdentity(f"{name!r} is no node name")
    attribute = _UNIT + _value(_SET, _value(_UTF8, name.encode("ascii")))
    return _value(_SEQUENCE, _value(_SEQUENCE, attribute))


def decode_node(value: bytes) -> str:
    """Read what `encode_node` gives; nothing else will do.

    Raises:
        InvalidIdentity: it is something else.
    """
    name = value[_BEFORE_NAME:].decode("ascii", errors="replace")
    if not LABEL.match(name) or encode_node(name) != value:
        raise InvalidIdentity("the certificate's directory attributes name no node")
    return name


def _value(tag: bytes, content: bytes) -> bytes:
    return tag + bytes([len(content)]) + content
