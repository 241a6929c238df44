"""All certificates of this node: its own and one for each identity that its workloads declare."""

import random
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
import structlog
import trio

from node_proxy.agent.credentials import Enrolment, Held, Keyring, credentials_update
from node_proxy.agent.enrolment import request_certificate
from node_proxy.agent.renewal import CertificateKeeper, CertificateState, keep_all_fresh
from node_proxy.control import CredentialsUpdate
from node_proxy.errors import ConfigError, EnrolmentError
from registry.model.identity import Identity, NodeIdentity, WorkloadIdentity

log = structlog.get_logger("node_proxy.agent.certificates")


class Certificates:
    """Holds, renews and stores certificates; `changed` is called when one is replaced.

    Args:
        keyring: where they are kept.
        registry: URL of the registry that signs.
        workloads: the identities to hold beside the node's own.
        default: the identity shown to peers that name none.
        changed: called when another certificate or root is to be used.
        now: the wall clock, in UTC.
        rng: jitter.

    Raises:
        ConfigError: this node has not joined.
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
    ) -> None:
        self._keyring = keyring
        self._registry = registry
        self._default = default
        self._changed = changed
        self._now = now
        self._enrolment = keyring.enrolment()
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
    def states(self) -> list[CertificateState]:
        """How it stands with each identity, the node's first."""
        return [keeper.state for keeper in self._keepers]

    @property
    def missing(self) -> list[str]:
        """Say which identities have no valid certificate, and why."""
        return [
            f"no valid certificate for {keeper.identity}: {keeper.state.error or 'not obtained yet'}"
            for keeper in self._keepers
            if not keeper.valid
        ]

    @property
    def expires(self) -> datetime | None:
        """When the first of those held ends."""
        return min((keeper.held.not_after for keeper in self._keepers if keeper.held), default=None)

    def update(self) -> CredentialsUpdate:
        """Give all that is held, as workers get it."""
        held = tuple(keeper.held for keeper in self._keepers if keeper.held is not None)
        return credentials_update(held, enrolment=self._enrolment, default=self._default)

    async def keep_fresh(self) -> None:
        """Renew for ever."""
        await keep_all_fresh(self._keepers)

    def _keeper(self, identity: Identity, held: Held | None, rng: random.Random) -> CertificateKeeper:
        return CertificateKeeper(
            identity=identity,
            held=held,
            obtain=self._obtain,
            replaced=lambda _: self._changed(),
            now=self._now,
            rng=rng,
        )

    def _stored(self, identity: Identity) -> Held | None:
        try:
            return self._keyring.load(identity)
        except EnrolmentError as error:
            log.warning("stored certificate unusable, asking for another", error=str(error))
            return None

    async def _obtain(self, identity: Identity) -> Held:
        node = self._node.held
        if node is None:
            raise EnrolmentError("the node's own certificate is missing")
        issued = await request_certificate(
            registry=self._registry,
            roots=self._enrolment.roots,
            node=node,
            identity=identity,
            now=self._now(),
        )
        self._enrolment = msgspec.structs.replace(self._enrolment, roots=issued.roots)
        try:
            await trio.to_thread.run_sync(self._keyring.save, issued.held)
            await trio.to_thread.run_sync(self._keyring.save_enrolment, self._enrolment)
        except (OSError, ConfigError) as error:
            # What is in memory serves until the agent ends; the disk may be mended before.
            log.error("certificate not stored", identity=str(identity), error=str(error))  # noqa: TRY400
        return issued.held
