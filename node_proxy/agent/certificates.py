"""All certificates of this node: its own and one for each identity that its workloads declare.

And whom the node trusts: its roots, the meshes it is federated with and the revocations, as the bundle says.
"""

import random
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
import structlog
import trio

from node_proxy.agent.credentials import Enrolment, Held, Keyring, credentials_update
from node_proxy.agent.enrolment import request_certificate, request_etcd_certificate
from node_proxy.agent.etcd_certificate import EtcdCredential
from node_proxy.agent.in_use import InUse
from node_proxy.agent.renewal import (
    LAGGING_SPREAD,
    REVOKED_PAUSE,
    REVOKED_SPREAD,
    CertificateKeeper,
    CertificateState,
    keep_all_fresh,
)
from node_proxy.agent.trust import Trusted, continues, describe, fingerprints, trust_of
from node_proxy.certificate import issuer_of, read_roots
from node_proxy.control import CredentialsUpdate
from node_proxy.errors import ConfigError, EnrolmentError
from registry.model.enrolment import TrustBundleSpec
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity
from registry.model.revocation import RevocationList

log = structlog.get_logger("node_proxy.agent.certificates")


def revoked(held: Iterable[Held], revocations: RevocationList) -> dict[str, str]:
    """Say of each certificate that is revoked, by its identity, what was done and how to come back."""
    found: dict[str, str] = {}
    for each in held:
        if revocation := revocations.find(each.facts):
            why = f" ({revocation.reason})" if revocation.reason else ""
            found[str(each.identity)] = (
                f"the certificate of {each.identity} is REVOKED: {revocation.kind} {revocation.value} at "
                f"{revocation.revoked_at}{why}; every peer refuses it. If this host is to be trusted again, "
                "`meshctl node token create` and `nodemesh-proxy join` bring it back"
            )
    return found


class Certificates:
    """Holds, renews and stores certificates; `changed` is called when one is replaced.

    Args:
        keyring: where they are kept.
        registry: URL of the registry that signs.
        workloads: the identities to hold beside the node's own.
        default: the identity shown to peers that name none.
        changed: called when another certificate is to be used, or others are to be trusted.
        now: the wall clock, in UTC.
        rng: jitter.
        spread: the seconds within which certificates are renewed when another authority issues.

    Raises:
        ConfigError: this node has not joined, or the roots it trusts cannot be read.
        EnrolmentError: the node's own certificate is damaged.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        registry: str,
        workloads: Iterable[WorkloadIdentity],
        default: WorkloadIdentity | None,
        changed: Callable[[], None],
        now: Callable[[], datetime],
        rng: random.Random,
        spread: float,
    ) -> None:
        self._spread = spread
        self._keyring = keyring
        self._registry = registry
        self._default = default
        self._changed = changed
        self._now = now
        self._enrolment = keyring.enrolment()
        self._revoked = RevocationList(self._enrolment.revocations)
        self._followed = False
        self.in_use = InUse()
        self._unstored = trio.Event()
        node = NodeIdentity(self._enrolment.trust_domain, self._enrolment.node)
        held = keyring.load(node)
        if held is None:
            raise ConfigError("this node's certificate is missing from state_dir; run `nodemesh-proxy join`")
        self._node = self._keeper(node, held, rng)
        self._keepers = [
            self._node,
            *(self._keeper(each, self._stored(each), rng) for each in sorted(set(workloads))),
        ]

    @property
    def enrolment(self) -> Enrolment:
        """What joining gave, with the roots as last heard."""
        return self._enrolment

    @property
    def node(self) -> Held:
        """The node's own certificate and key, which it signs with.

        Raises:
            EnrolmentError: it is missing.
        """
        if self._node.held is None:
            raise EnrolmentError("the node's own certificate is missing")
        return self._node.held

    @property
    def states(self) -> list[CertificateState]:
        """How it stands with each identity, the node's first."""
        return [keeper.state for keeper in self._keepers]

    @property
    def missing(self) -> list[str]:
        """Say which identities have no certificate that peers accept, and why."""
        return [
            *(
                f"no valid certificate for {keeper.identity}: {keeper.state.error or 'not obtained yet'}"
                for keeper in self._keepers
                if not keeper.valid
            ),
            *self.revoked.values(),
        ]

    @property
    def issuers(self) -> frozenset[str]:
        """The fingerprints of the authorities that signed what is held."""
        return frozenset(self._issuer(keeper.held) for keeper in self._keepers if keeper.held) - {""}

    @property
    def trusted(self) -> Trusted:
        """Whom this node trusts, for people to read."""
        return describe(self._enrolment)

    @property
    def revoked(self) -> dict[str, str]:
        """Say for each identity whose certificate is revoked why no peer accepts it."""
        return revoked((keeper.held for keeper in self._keepers if keeper.held), self._revoked)

    @property
    def expires(self) -> datetime | None:
        """When the first of those held ends."""
        return min((keeper.held.not_after for keeper in self._keepers if keeper.held), default=None)

    def update(self) -> CredentialsUpdate:
        """Give all that is held, as workers get it; each time another generation."""
        generation = self.in_use.give(roots=fingerprints(self._enrolment.roots), issuers=self.issuers)
        held = tuple(keeper.held for keeper in self._keepers if keeper.held is not None)
        return credentials_update(
            held, enrolment=self._enrolment, default=self._default, generation=generation
        )

    def follow(self, spec: TrustBundleSpec) -> None:
        """Trust whom an acceptable bundle says from now on."""
        self._followed = True
        trust = msgspec.structs.asdict(trust_of(spec))
        enrolment = msgspec.structs.replace(self._enrolment, **trust)
        if enrolment == self._enrolment:
            return
        before, self._enrolment = self._enrolment, enrolment
        self._revoked = RevocationList(enrolment.revocations)
        log.info(
            "trust bundle taken",
            roots=fingerprints(enrolment.roots),
            issuer=enrolment.issuer,
            revocations=len(enrolment.revocations),
            federated=[each.trust_domain for each in enrolment.federated],
        )
        self._unstored.set()
        if (enrolment.issuer, enrolment.revocations) != (before.issuer, before.revocations):
            self._renew_unfit(at_once=True)
        self._changed()

    async def obtain_for_etcd(self) -> EtcdCredential:
        """Ask the registry for a certificate for etcd.

        Raises:
            EnrolmentError: it does not give one.
        """
        return await request_etcd_certificate(
            registry=self._registry, roots=self._enrolment.roots, node=self.node, now=self._now()
        )

    async def keep_fresh(self) -> None:
        """Renew for ever."""
        self._renew_unfit(at_once=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_stored)
            nursery.start_soon(keep_all_fresh, self._keepers)

    async def _keep_stored(self) -> None:
        while True:
            await self._unstored.wait()
            self._unstored = trio.Event()
            try:
                await trio.to_thread.run_sync(self._keyring.save_enrolment, self._enrolment)
            except (OSError, ConfigError) as error:
                # Only a restart without etcd would trust as before; the next change is stored whole.
                log.error("trusted roots not stored", error=str(error))  # noqa: TRY400 (the disk's fault)

    def _renew_unfit(self, *, at_once: bool) -> None:
        for keeper in self._keepers:
            if keeper.held is not None:
                self._renew_if_unfit(keeper, keeper.held, at_once=at_once)

    def _renew_if_unfit(self, keeper: CertificateKeeper, held: Held, *, at_once: bool) -> None:
        """Have a certificate replaced that peers refuse, or soon will."""
        if text := revoked((held,), self._revoked).get(str(keeper.identity)):
            log.error("certificate revoked", identity=str(keeper.identity), detail=text)
            keeper.renew_within(REVOKED_SPREAD if at_once else self._spread, after=REVOKED_PAUSE)
        elif self._enrolment.issuer and self._issuer(held) != self._enrolment.issuer:
            within = self._spread if at_once else LAGGING_SPREAD
            log.info("another authority issues now", identity=str(keeper.identity), renewed_within=within)
            keeper.renew_within(within)

    def _issuer(self, held: Held) -> str:
        return issuer_of(held.chain, read_roots(self._enrolment.roots))

    def _keeper(self, identity: Identity, held: Held | None, rng: random.Random) -> CertificateKeeper:
        def replaced(held: Held) -> None:
            # A registry that lags behind the bundle may have given what is no better.
            self._renew_if_unfit(keeper, held, at_once=False)
            self._changed()

        keeper = CertificateKeeper(
            identity=identity, held=held, obtain=self._obtain, replaced=replaced, now=self._now, rng=rng
        )
        return keeper

    def _stored(self, identity: Identity) -> Held | None:
        try:
            return self._keyring.load(identity)
        except EnrolmentError as error:
            log.warning("stored certificate unusable, asking for another", error=str(error))
            return None

    async def _obtain(self, identity: Identity) -> Held:
        node = self.node
        issued = await request_certificate(
            registry=self._registry,
            roots=self._enrolment.roots,
            node=node,
            identity=identity,
            now=self._now(),
        )
        if not self._followed and continues(issued.roots, self._enrolment.roots):
            # Without etcd the registry is the only one to hear of new roots from.
            self._enrolment = msgspec.structs.replace(self._enrolment, roots=issued.roots)
            self._unstored.set()
        try:
            await trio.to_thread.run_sync(self._keyring.save, issued.held)
        except (OSError, ConfigError) as error:
            # What is in memory serves until the agent ends; the disk may be mended before.
            log.error("certificate not stored", identity=str(identity), error=str(error))  # noqa: TRY400
        return issued.held
