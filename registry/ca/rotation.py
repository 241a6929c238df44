"""How a signing certificate is changed for another without a moment at which a valid peer is refused.

Pure: the state of the rotation, of the bundle and of the nodes in, what to do next out.

A new intermediate of the same root is believed by everybody at once, so it issues from the start (MOVING). A
new root is spread first (SPREADING): the bundle holds both while the old one issues, until nobody is left who
would not believe the new one. Then the new intermediate issues (MOVING), until nobody is left who shows a
certificate of the old root. Then the old root goes.

"Nobody" counts live nodes by what they report. A node that is enrolled and not live may be cut off from etcd
and nothing else, its proxy serving and its certificates valid; so it is waited for as long as a certificate
from before the phase can live. What is issued later comes with the bundle.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from registry.clock import format_time, parse_time
from registry.model.enrolment import TrustBundleSpec
from registry.model.rotation import Phase, RotationSpec

# A request that another replica answers has read the bundle at most this long ago, and every replica's API
# has a certificate of the new intermediate by then (`registry.server_identity` looks more often).
SETTLE = timedelta(seconds=30)
# A peer whose clock is slow takes a certificate for valid this much longer.
SKEW = timedelta(minutes=5)
# So many nodes are named by those who ask why a rotation waits; the rest are counted.
MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Standing:
    """A node as it is known: `live` by its lease, the rest as it reports; fingerprints."""

    name: str
    live: bool
    trusted_roots: frozenset[str] = frozenset()
    issuers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class HoldUp:
    """Why a rotation does not go on yet; `until` is when that ends by itself, if it does."""

    why: str
    until: datetime | None


def begin(
    *, root: str, issuer: str, outgoing: tuple[str, ...], leaf_lifetime: timedelta, now: datetime
) -> RotationSpec:
    """Begin: with roots that go both are spread first, without the new intermediate issues at once."""
    return RotationSpec(
        phase=Phase.SPREADING if outgoing else Phase.MOVING,
        started_at=format_time(now),
        since=format_time(now),
        root=root,
        issuer=issuer,
        outgoing=outgoing,
        leaf_seconds=max(1, int(leaf_lifetime.total_seconds())),
    )


def hold_ups(rotation: RotationSpec, nodes: Iterable[Standing], *, now: datetime) -> list[HoldUp]:
    """Give what the next step waits for; nothing if it may be taken."""
    since = parse_time(rotation.since)
    found = []
    if now < since + SETTLE:
        found.append(HoldUp("the registry's replicas take it in", since + SETTLE))
    outlived = since + timedelta(seconds=rotation.leaf_seconds) + SKEW
    behind: list[str] = []
    absent: list[str] = []
    for node in nodes:
        if node.live and not _is_ready(rotation, node):
            behind.append(node.name)
        # Where no root goes, whom nobody hears from is believed all the same.
        elif not node.live and rotation.outgoing and now < outlived:
            absent.append(node.name)
    match rotation.phase:
        case Phase.SPREADING if behind:
            found.append(HoldUp(f"{_names(behind)} not reported yet that the new root is trusted", None))
        case Phase.MOVING if behind and now < outlived:
            found.append(HoldUp(f"{_names(behind)} not renewed every certificate yet", outlived))
        case _:
            pass
    if absent:
        found.append(HoldUp(f"{_names(absent)} not been heard of, and may hold valid certificates", outlived))
    return found


def _is_ready(rotation: RotationSpec, node: Standing) -> bool:
    match rotation.phase:
        case Phase.SPREADING:
            return node.trusted_roots >= {rotation.root, *rotation.outgoing}
        case Phase.MOVING:
            return bool(node.issuers) and node.issuers <= {rotation.issuer}
        case _:
            assert_never(rotation.phase)


def _names(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:MAX_NAMED])
    if len(names) > MAX_NAMED:
        shown += f" and {len(names) - MAX_NAMED} more"
    return f"{shown} {'has' if len(names) == 1 else 'have'}"


def step(rotation: RotationSpec, *, now: datetime) -> RotationSpec | None:
    """Give the rotation after its next step; None when that is the last."""
    if rotation.phase is Phase.SPREADING:
        return msgspec.structs.replace(rotation, phase=Phase.MOVING, since=format_time(now))
    return None


def bundle_for(
    bundle: TrustBundleSpec, before: RotationSpec, after: RotationSpec | None, roots: dict[str, str]
) -> TrustBundleSpec:
    """Give the bundle that goes with a step; `roots` are the bundle's roots (PEM) by fingerprint."""
    if after is not None:
        return msgspec.structs.replace(bundle, issuer=after.issuer)
    kept = tuple(pem for fingerprint, pem in roots.items() if fingerprint not in before.outgoing)
    return msgspec.structs.replace(bundle, roots_pem=kept)


def bundle_without(
    bundle: TrustBundleSpec, rotation: RotationSpec, roots: dict[str, str]
) -> TrustBundleSpec | None:
    """Give the bundle after a rotation is given up; None when it is too late for that."""
    if rotation.phase is not Phase.SPREADING:
        return None
    kept = tuple(pem for fingerprint, pem in roots.items() if fingerprint != rotation.root)
    return msgspec.structs.replace(bundle, roots_pem=kept)
