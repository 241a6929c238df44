"""What the mesh may tell this node to trust. Pure.

Whoever can write ``ca/bundle`` could make the whole mesh believe a root of their own. So a node takes a
bundle only when it continues from what the node trusts already. And whoever can write an old one back could
undo what was revoked since; so a node takes none that is older than its own.
"""

from collections.abc import Iterable
from typing import NoReturn

import msgspec

from node_proxy.certificate import fingerprint, read_roots
from registry.errors import InvalidResource
from registry.model.enrolment import FederatedDomain, Revocation, TrustBundle, TrustBundleSpec
from registry.model.trust import check_bundle
from registry.store import keys

WHERE = keys.render(keys.BundleKey())


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Whom this node trusts: `roots` are PEM, `issuer` is the fingerprint of what issues certificates now.

    `generation` is that of the bundle which said so; 0 when none that has one did.
    """

    roots: tuple[str, ...]
    issuer: str = ""
    federated: tuple[FederatedDomain, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    generation: int = 0


class Trusted(msgspec.Struct, frozen=True, kw_only=True):
    """The same by fingerprints, for people to read."""

    roots: tuple[str, ...]
    issuer: str
    federated: dict[str, tuple[str, ...]]
    revocations: tuple[Revocation, ...]
    generation: int


def trust_of(spec: TrustBundleSpec) -> Trust:
    """Give what an acceptable bundle says."""
    return Trust(
        roots=spec.roots_pem,
        issuer=spec.issuer,
        federated=spec.federated,
        revocations=spec.revocations,
        generation=spec.generation,
    )


def describe(trust: Trust) -> Trusted:
    """Give whom a node trusts by fingerprints.

    Raises:
        ValueError: a root cannot be read.
    """
    return Trusted(
        roots=fingerprints(trust.roots),
        issuer=trust.issuer,
        federated={each.trust_domain: fingerprints(each.roots_pem) for each in trust.federated},
        revocations=trust.revocations,
        generation=trust.generation,
    )


def fingerprints(roots: Iterable[str]) -> tuple[str, ...]:
    """Give the fingerprints of roots in PEM, sorted."""
    return tuple(sorted(fingerprint(each) for each in read_roots(roots)))


def continues(roots: Iterable[str], current_roots: Iterable[str]) -> bool:
    """Whether roots can be read and have one in common with those trusted now."""
    try:
        return bool(set(fingerprints(roots)) & set(fingerprints(current_roots)))
    except ValueError:
        return False


def acceptable(bundle: TrustBundle, held: Trust, *, trust_domain: str) -> None:
    """Check that a bundle may replace what is trusted now: the one place of that rule.

    Args:
        bundle: what was written.
        held: whom this node trusts now.
        trust_domain: that of this node.

    Raises:
        InvalidResource: it may not; says why.
    """
    spec = bundle.spec
    if spec.trust_domain != trust_domain:
        _refuse("trustDomain", f"is {spec.trust_domain!r}, this node has joined {trust_domain!r}")
    check_bundle(spec, where=WHERE)
    _check_generation(spec, held)
    if not continues(spec.roots_pem, held.roots):
        known = ", ".join(each[:16] for each in fingerprints(held.roots)) or "none"
        _refuse(
            "rootsPem",
            f"has no root in common with those this node trusts ({known})",
            mend="a node that was away for a whole rotation must join again; if others say so too, put the "
            "old root beside the new one until every node has taken both: meshctl ca rotate does",
        )


def _check_generation(spec: TrustBundleSpec, held: Trust) -> None:
    """Refuse what this node has left behind: an older bundle is signed as well, and revokes less."""
    if spec.generation < held.generation:
        reason = f"is {spec.generation}, older than {held.generation}, which this node has taken already"
    # Before there were generations, all had none.
    elif spec.generation == held.generation > 0 and describe(trust_of(spec)) != describe(held):
        reason = f"is {spec.generation}, under which this node has taken another bundle"
    else:
        return
    _refuse(
        "generation",
        reason,
        mend="if etcd was put back from a backup, repeat what was revoked since: any change with `meshctl "
        "ca` writes a newer bundle. Otherwise find out who has written to etcd",
    )


def _refuse(path: str, reason: str, *, mend: str = "") -> NoReturn:
    raise InvalidResource(where=WHERE, path=f"spec.{path}", reason=reason, mend=mend)
