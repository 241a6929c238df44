"""Calls of external services: dialled from here, in TLS where the service says so, for whom it allows."""

from dataclasses import dataclass

import trio

from node_proxy.address import join_address
from node_proxy.dataplane.context import WorkerContext
from node_proxy.dataplane.direct import DIAL_TIMEOUT, MOST_ADDRESSES, Failure, Far, dial
from node_proxy.dataplane.external_table import ExternalRoute
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.origination import Originator
from node_proxy.dataplane.outbound_connection import Caller
from node_proxy.dataplane.reason import DENIED, Reason
from node_proxy.errors import DialError, HandshakeError
from registry.model.decision import Outcome
from registry.model.identity import WorkloadIdentity
from registry.rules import AuthRequest

SIDE = "external"
PERMITTED = "permitted"
NO_ADDRESS = Reason("no_address")
DIAL_FAILED = Reason("dial_failed")
TIMED_OUT = Reason("timeout")
TLS_FAILED = Reason("tls_failed")
WITHDRAWN = Reason("unknown_destination")


@dataclass(frozen=True, slots=True)
class ExternalCall:
    """A `DirectCall` of an external service's port."""

    context: WorkerContext
    originator: Originator
    route: ExternalRoute

    @property
    def side(self) -> str:
        """``external``."""
        return SIDE

    @property
    def label(self) -> str:
        """``namespace/name`` of the external service."""
        return self.route.service

    @property
    def target(self) -> str:
        """``namespace/name:port``."""
        return f"{self.route.service}:{self.route.port}"

    def admit(self, caller: Caller) -> Failure | None:
        """Judge, and note the decision: nobody at the other end does."""
        failure = self.objection(caller)
        denied = failure is not None and failure.why is Refused.DENIED
        if failure is not None and not denied:
            return failure
        number = self.context.new_decision_id()
        identity = caller.identity
        self.context.decisions.note(
            identity,
            AuthRequest(identity if isinstance(identity, WorkloadIdentity) else None, self.route.port),
            destination=self.route.service,
            outcome=Outcome.DENIED if denied else Outcome.PERMITTED,
            reason=DENIED if denied else PERMITTED,
            policy=self.route.service,
            decision=number,
            now=self.context.clock(),
        )
        return self._denied(number) if denied else None

    def objection(self, caller: Caller) -> Failure | None:
        """Say why `caller` may not call it, by the tables now in force."""
        route = self._route()
        if route is None:
            return Failure(Refused.UNKNOWN, WITHDRAWN)
        return None if route.admits(caller.identity) else self._denied("")

    async def open(self) -> tuple[Far, str] | Failure:
        """Try its addresses until one answers."""
        route = self._route() or self.route
        addresses = list(route.addresses)
        self.context.rng.shuffle(addresses)
        failure = Failure(Refused.UNREACHABLE, NO_ADDRESS, "its name has not resolved")
        for address in addresses[:MOST_ADDRESSES]:
            at = join_address(address, route.target)
            try:
                with trio.fail_after(DIAL_TIMEOUT):
                    return await self._connect(route, address), at
            except trio.TooSlowError:
                failure = Failure(Refused.LATE, TIMED_OUT, f"no answer of {at} within {DIAL_TIMEOUT:.0f} s")
            except DialError as error:
                failure = Failure(Refused.UNREACHABLE, DIAL_FAILED, str(error))
            except HandshakeError as error:
                failure = Failure(Refused.UNREACHABLE, TLS_FAILED, f"{at}: {error}")
        return failure

    async def _connect(self, route: ExternalRoute, address: str) -> Far:
        sock = await dial(address, route.target, mark=self.context.mark)
        return sock if route.tls is None else await self.originator.shake_hands(sock, route.tls)

    def _route(self) -> ExternalRoute | None:
        return self.context.enforced.tables.externals.by_name(self.route.service, self.route.port)

    def _denied(self, decision: str) -> Failure:
        reason = Reason(DENIED, self.route.service, decision)
        return Failure(Refused.DENIED, reason, "not among its allowedPrincipals, or without an identity")
