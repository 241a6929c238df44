"""What ``nodemesh-proxy check`` says of this node's certificates and trust, from what is on disk."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from node_proxy.agent.certificates import revoked
from node_proxy.agent.credentials import Held, Keyring
from node_proxy.agent.trust import fingerprints
from node_proxy.config import WorkloadConfig
from node_proxy.errors import ConfigError, EnrolmentError
from registry.model.identity import Identity, NodeIdentity
from registry.model.revocation import RevocationList


def standing(keyring: Keyring, workloads: Iterable[WorkloadConfig], *, now: datetime) -> Iterator[str]:
    """Say how it stands, line by line.

    Raises:
        EnrolmentError: a certificate is revoked, has expired or is damaged: no peer accepts it.
    """
    try:
        enrolment = keyring.enrolment()
    except ConfigError as error:
        # Files may be checked before the node joins, and by somebody who may not read its keys.
        yield f"certificates not checked: {error}"
        return
    node = NodeIdentity(enrolment.trust_domain, enrolment.node)
    identities = sorted({each.identity(enrolment.trust_domain) for each in workloads})
    wanted: list[Identity] = [node, *identities]
    held = [each for identity in wanted if (each := keyring.load(identity))]
    yield f"trusts {len(enrolment.roots)} root(s): {', '.join(fingerprints(enrolment.roots))}"
    for each in held:
        yield f"{each.identity}: valid until {each.not_after:%F %R} UTC"
    faults = [
        *revoked(held, RevocationList(enrolment.revocations)).values(),
        *(_expired(each, now) for each in held if not each.valid_at(now)),
    ]
    if faults:
        raise EnrolmentError("; ".join(faults))


def _expired(held: Held, now: datetime) -> str:
    return (
        f"the certificate of {held.identity} is good from {held.not_before:%F %R} to "
        f"{held.not_after:%F %R} UTC, and this host's clock says {now:%F %R}; mend the clock, "
        "or see why nodemesh-proxy cannot renew it"
    )
