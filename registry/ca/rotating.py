"""Rotations in the store: started, taken on and given up, each in one transaction.

Every transaction demands that the bundle and the rotation are as they were read, so it does not matter which
replica acts, or that one is killed in between: what is in the store is always one of the states that
`registry.ca.rotation` knows, and the next look at it goes on from there.
"""

from base64 import b64decode, urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import msgspec
import structlog
from cryptography import x509

from registry.ca import issuer, rotation
from registry.ca.authority import Authority, make_issuing, make_root, open_root
from registry.ca.bundle import Trust, put_bundle
from registry.ca.keyring import IssuingKey, StoredKey, open_key, put_issuing, put_root, read_keys
from registry.ca.resigning import Resigner
from registry.ca.rotation import HoldUp, Standing
from registry.clock import Clock
from registry.errors import ConfigError, Conflict, InvalidResource, NotFound
from registry.model.enrolment import TrustBundleSpec
from registry.model.parse import parse_as, render
from registry.model.resource import NODEMESH, ROOT_NAMESPACE, Metadata
from registry.model.rotation import Phase, Rotation, RotationSpec
from registry.model.workload import NodeStatus, NodeStatusSpec
from registry.store import keys
from registry.store.base import Delete, KeyIs, Put, Store, Write

KEY = keys.render(keys.RotationKey())

_EXTERNAL = (
    "the root's key is not in etcd, so the operator's own authority must certify: "
    "`nodemesh-registry ca csr`, then `nodemesh-registry ca import`"
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Progress:
    """A rotation, and what its next step waits for."""

    spec: RotationSpec
    hold_ups: tuple[HoldUp, ...]


class _Claimed(msgspec.Struct):
    signature: str = ""


class _Header(msgspec.Struct):
    x5c: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A rotation as it was read."""

    spec: RotationSpec
    revision: int

    @property
    def unchanged(self) -> KeyIs:
        """The condition that it still stands."""
        return KeyIs(KEY, self.revision)


class Rotator:
    """Changes the intermediate, or the root with it."""

    def __init__(self, *, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock

    async def progress(self) -> Progress | None:
        """Say how far the rotation is; None when there is none."""
        if (found := await self._find()) is None:
            return None
        return Progress(found.spec, tuple(await self._hold_ups(found.spec)))

    async def start_intermediate(self) -> RotationSpec:
        """Make a new intermediate under the root, which issues from now on.

        Raises:
            Conflict: a rotation is under way, or the root's key is not here.
        """
        trust, stored = await self._idle()
        root = await self._open_root(stored, trust)
        now = self._clock()
        # For those who still pin the root before this one.
        cross = tuple(each for each in self._authority.issuing.cross if each.not_valid_after_utc > now)
        issuing = make_issuing(root, trust_domain=trust.trust_domain, now=now, cross=cross)
        return await self._begin(trust, root.certificate, issuing, (), now)

    async def start_root(self) -> RotationSpec:
        """Make a new root and an intermediate under it, and begin to spread the root.

        Raises:
            Conflict: a rotation is under way, or the root's key is not here.
        """
        trust, stored = await self._idle()
        old = await self._open_root(stored, trust)
        now = self._clock()
        new = make_root(trust_domain=trust.trust_domain, now=now)
        cross = issuer.cross_certify(old, new.certificate, serial=x509.random_serial_number(), now=now)
        issuing = make_issuing(new, trust_domain=trust.trust_domain, now=now, cross=(cross,))
        return await self._begin(
            trust, new.certificate, issuing, (put_root(new, kek=self._authority.kek),), now
        )

    async def install(
        self, root: x509.Certificate, issuing: IssuingKey, *, instead_of: KeyIs
    ) -> RotationSpec:
        """Change to an intermediate, perhaps of a new root, that an operator's authority certified.

        `instead_of` is the key that waited to be certified, which goes.

        Raises:
            Conflict: a rotation is under way.
        """
        trust, _ = await self._idle()
        return await self._begin(trust, root, issuing, (Delete(instead_of.key),), self._clock(), instead_of)

    async def advance(self, *, force: bool = False) -> bool:
        """Take the next step if nothing holds it up, or by `force`; whether it was taken.

        Raises:
            NotFound: there is no rotation.
        """
        if (found := await self._find()) is None:
            raise NotFound("no rotation is under way")
        waits = await self._hold_ups(found.spec)
        if waits and not force:
            return False
        trust = await self._authority.refresh()
        after = rotation.step(found.spec, now=self._clock())
        if after is None:
            # What the old key signed would be worth nothing once its root is gone.
            await Resigner(store=self._store, authority=self._authority, clock=self._clock).run_once()
        spec = rotation.bundle_for(trust.spec, found.spec, after, _by_fingerprint(trust))
        stored = await read_keys(self._store)
        issuing = await self._open_issuing(stored, spec.issuer)
        writes: list[Write] = [put_bundle(spec, signed_by=issuing, now=self._clock())]
        if after is None:
            writes.append(Delete(KEY))
            writes += _retired(stored, spec, issuing)
        else:
            writes.append(Put(KEY, _render(after)))
        if await self._store.commit([trust.unchanged, found.unchanged], writes) is None:
            # Another replica was faster; what it made of it is seen at the next look.
            return False
        await self._authority.refresh()
        _log.info(
            "rotation taken on" if after else "rotation done",
            phase=after.phase.value if after else None,
            issuer=spec.issuer,
            in_spite_of=[each.why for each in waits],
        )
        return True

    async def abort(self) -> None:
        """Give the rotation up, while the new root issues nothing yet.

        Raises:
            NotFound: there is no rotation.
            Conflict: nodes have certificates of the new intermediate already.
        """
        if (found := await self._find()) is None:
            raise NotFound("no rotation is under way")
        trust = await self._authority.refresh()
        spec = rotation.bundle_without(trust.spec, found.spec, _by_fingerprint(trust))
        if spec is None:
            raise Conflict(
                "the new intermediate issues already, so its root must stay trusted; let the rotation end "
                "and start another"
            )
        stored = await read_keys(self._store)
        gone: list[Write] = [
            Delete(stored[each].key) for each in (found.spec.root, found.spec.issuer) if each in stored
        ]
        bundle = put_bundle(spec, signed_by=self._authority.issuing, now=self._clock())
        writes = [bundle, Delete(KEY), *gone]
        if await self._store.commit([trust.unchanged, found.unchanged], writes) is None:
            raise Conflict("the rotation was taken on meanwhile; look at `meshctl ca status`")
        _log.info("rotation given up", root=found.spec.root)

    async def _find(self) -> _Found | None:
        if (item := await self._store.get(KEY)) is None:
            return None
        return _Found(parse_as(Rotation, item.value, where=KEY).spec, item.revision)

    async def _hold_ups(self, spec: RotationSpec) -> list[HoldUp]:
        return rotation.hold_ups(spec, await read_standings(self._store), now=self._clock())

    async def _idle(self) -> tuple[Trust, dict[str, StoredKey]]:
        if await self._find() is not None:
            raise Conflict("a rotation is under way already; `meshctl ca status` says how far it is")
        return await self._authority.refresh(), await read_keys(self._store)

    async def _open_root(self, stored: dict[str, StoredKey], trust: Trust) -> issuer.Signer:
        try:
            return await open_root(stored, trust, kek=self._authority.kek)
        except ConfigError as error:
            raise Conflict(_EXTERNAL) from error

    async def _open_issuing(self, stored: dict[str, StoredKey], fingerprint: str) -> IssuingKey:
        if fingerprint == self._authority.issuing.fingerprint:
            return self._authority.issuing
        if (found := stored.get(fingerprint)) is None:
            raise ConfigError(
                f"the key of the new intermediate {fingerprint[:16]}… is not in etcd (any more)"
            )
        return await open_key(found, kek=self._authority.kek)

    async def _begin(
        self,
        trust: Trust,
        root: x509.Certificate,
        issuing: IssuingKey,
        more: Sequence[Write],
        now: datetime,
        *conditions: KeyIs,
    ) -> RotationSpec:
        known = _by_fingerprint(trust)
        new = issuer.fingerprint(root)
        spec = rotation.begin(
            root=new,
            issuer=issuing.fingerprint,
            outgoing=() if new in known else tuple(known),
            leaf_lifetime=self._authority.leaf_lifetime,
            now=now,
        )
        known.setdefault(new, issuer.to_pem(root))
        bundle = msgspec.structs.replace(trust.spec, roots_pem=tuple(known.values()))
        signer = self._authority.issuing
        if spec.phase is Phase.MOVING:
            bundle, signer = msgspec.structs.replace(bundle, issuer=issuing.fingerprint), issuing
        key = put_issuing(issuing, kek=self._authority.kek)
        writes = [key, *more, put_bundle(bundle, signed_by=signer, now=now), Put(KEY, _render(spec))]
        absent = [KeyIs(write.key, 0) for write in (key, *more) if isinstance(write, Put)]
        if await self._store.commit([trust.unchanged, KeyIs(KEY, 0), *absent, *conditions], writes) is None:
            raise Conflict("the bundle was changed meanwhile; try again")
        await self._authority.refresh()
        _log.info("rotation begun", phase=spec.phase.value, root=spec.root, issuer=spec.issuer)
        return spec


async def read_standings(store: Store) -> list[Standing]:
    """Read what is known of every node that is enrolled or alive."""
    names: set[str] = set()
    live: set[str] = set()
    reports: dict[str, NodeStatusSpec] = {}
    signed_under: dict[str, set[str]] = {}
    enrolments = await store.list("enrolments/")
    nodes = await store.list("nodes/")
    for item in (*enrolments.items, *nodes.items):
        match keys.parse(item.key):
            case keys.EnrolmentKey(node):
                names.add(node)
            case keys.NodeRecordKey(node):
                live.add(node)
                signed_under.setdefault(node, set()).update(_signed_under(item.value))
            case keys.WorkloadKey(node=node):
                signed_under.setdefault(node, set()).update(_signed_under(item.value))
            case keys.NodeStatusKey(node):
                try:
                    reports[node] = parse_as(NodeStatus, item.value, where=item.key).spec
                except InvalidResource as error:
                    # As good as none: the rotation waits for one that can be read.
                    _log.warning("status unreadable", node=node, reason=error.describe())
            case _:
                pass
    return [
        Standing(
            name=name,
            live=name in live,
            trusted_roots=frozenset(reports[name].trusted_roots if name in reports else ()),
            issuers=frozenset(reports[name].issuers) | signed_under.get(name, set())
            if name in reports
            else frozenset(),
        )
        for name in sorted(names | live)
    ]


def _signed_under(value: bytes) -> set[str]:
    """Give the issuer of the certificate by which a node's value says it is signed, unverified.

    It would be worth nothing when that issuer's root has gone, so it is waited for like a certificate in use.
    """
    try:
        header = msgspec.json.decode(value, type=_Claimed).signature.partition("..")[0]
        x5c = msgspec.json.decode(urlsafe_b64decode(header + "=" * (-len(header) % 4)), type=_Header).x5c
        return {sha256(b64decode(x5c[1])).hexdigest()} if len(x5c) > 1 else set()
    except (msgspec.MsgspecError, ValueError):
        return set()


def _retired(stored: dict[str, StoredKey], spec: TrustBundleSpec, issuing: IssuingKey) -> list[Delete]:
    """Give the removal of every key that nothing will be signed with any more."""
    roots = {issuer.fingerprint(issuer.read_certificate(pem, where="the bundle")) for pem in spec.roots_pem}
    kept = {issuing.fingerprint, *roots}
    return [Delete(found.key) for fingerprint, found in stored.items() if fingerprint not in kept]


def _by_fingerprint(trust: Trust) -> dict[str, str]:
    return {issuer.fingerprint(root): issuer.to_pem(root) for root in trust.roots}


def _render(spec: RotationSpec) -> bytes:
    return render(
        Rotation(
            api_version=NODEMESH,
            kind=Rotation.KIND,
            metadata=Metadata(name="rotation", namespace=ROOT_NAMESPACE),
            spec=spec,
        )
    )
