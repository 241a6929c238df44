"""What the leading replica does for the certificate authority by itself.

It takes rotations on, lets everything be signed by the key that issues, renews the intermediate before it
ends, and forgets revocations that nothing needs.
"""

from datetime import datetime, timedelta

import structlog
import trio

from registry.ca import issuer
from registry.ca.authority import Authority
from registry.ca.resigning import Resigner
from registry.ca.revoking import Editor
from registry.ca.rotating import Rotator
from registry.ca.signed_store import SignedStore
from registry.clock import Clock
from registry.errors import Conflict, InvalidResource, RegistryError, StoreError, StoreForbidden
from registry.model.enrolment import Enrolment
from registry.store.accounts import Accounts, NoAccounts
from registry.store.base import Store

# One read of one key each time; a rotation's steps are seconds to hours apart.
ROUND_SECONDS = 2.0
# Revocations end at day's granularity, and certificates of a year have months of warning.
CHORES_SECONDS = 3600.0
# As nodes renew at half-life: while much is left, so that a failure has time to be mended.
INTERMEDIATE_RENEWAL = issuer.INTERMEDIATE_LIFETIME / 3
# The operator hears of a root's end when there is still time for a rotation of many hosts.
ROOT_WARNING = timedelta(days=180)

_log = structlog.get_logger()


class Upkeep:
    """Looks after the authority while its replica leads."""

    def __init__(
        self, *, store: Store, authority: Authority, clock: Clock, accounts: Accounts | None = None
    ) -> None:
        """Without `accounts` etcd's users are somebody else's to keep."""
        self._accounts = accounts or NoAccounts()
        self._signed = SignedStore(store=store, authority=authority, clock=clock)
        self._rotator = Rotator(store=store, authority=authority, clock=clock)
        self._editor = Editor(store=store, authority=authority, clock=clock)
        self._resigner = Resigner(store=store, authority=authority, clock=clock)
        self._authority = authority
        self._clock = clock

    async def run(self) -> None:
        """Look after it until cancelled; what fails is logged and tried again in the next round.

        Raises:
            StoreError: the store is away, or refuses; whoever leads no longer leads then.
        """
        chores_at = trio.current_time()
        while True:
            try:
                await self._resigner.run_once()
                if await self._rotator.progress() is not None:
                    await self._rotator.advance()
                elif trio.current_time() >= chores_at:
                    chores_at = trio.current_time() + CHORES_SECONDS
                    await self._do_chores()
            except StoreError:
                raise
            except RegistryError as error:
                _log.error("upkeep of the certificate authority failed", reason=str(error))
            await trio.sleep(ROUND_SECONDS)

    async def _do_chores(self) -> None:
        await self._editor.collect()
        await self._resigner.run_once(again=True)
        await self._keep_accounts()
        now = self._clock()
        issuing, root = self._authority.issuing.certificate, self._authority.root
        _warn("root", root.not_valid_after_utc, ROOT_WARNING, now)
        # Where the root ends first there is nothing to win by another intermediate.
        end = issuing.not_valid_after_utc
        if end - now > INTERMEDIATE_RENEWAL or end >= root.not_valid_after_utc:
            return
        try:
            await self._rotator.start_intermediate()
        except Conflict as error:
            _warn("intermediate", end, INTERMEDIATE_RENEWAL, now, reason=str(error))

    async def _keep_accounts(self) -> None:
        """Let etcd's users be those of the nodes enrolled: for what was enrolled before there were any."""
        nodes = []
        for item in (await self._signed.list("enrolments/")).items:
            try:
                spec = self._signed.check(Enrolment, item).resource.spec
            except InvalidResource as error:
                _log.error("enrolment does not count", reason=error.describe())
            else:
                if not spec.pending:
                    nodes.append(spec.node)
        try:
            await self._accounts.keep(nodes)
        except StoreForbidden as error:
            _log.error("etcd users not kept", reason=str(error))


def _warn(what: str, end: datetime, warning: timedelta, now: datetime, *, reason: str = "") -> None:
    if end - now <= warning:
        _log.error(
            "signing certificate ends soon; rotate it",
            what=what,
            until=end.isoformat(),
            days_left=(end - now).days,
            reason=reason,
        )
