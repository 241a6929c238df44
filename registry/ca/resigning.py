"""Keeps what the authority has signed signed by the key that issues now.

A signature ends with the certificate of the intermediate that made it, or with its root. So after a rotation
all is signed anew, long before the old ones go: whatever holds then, and nothing else.
"""

from typing import Final

import structlog
import trio

from registry.ca.adoption import VOUCHED
from registry.ca.authority import Authority
from registry.clock import Clock
from registry.errors import InvalidResource
from registry.judgement import KINDS_BY_PLURAL
from registry.model.signature import BadSignature, verify
from registry.store.base import KeyIs, KeyValue, Put, Store
from registry.store.signed import Signatures

# The trust bundle is written by whoever changes it.
FOLDERS: Final = (*VOUCHED, *(plural if plural == "mesh" else f"{plural}/" for plural in KINDS_BY_PLURAL))

_log = structlog.get_logger()


class Resigner:
    """Signs anew what an older key has signed."""

    def __init__(self, *, store: Store, authority: Authority, clock: Clock) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock
        self._done_for = ""

    async def run_once(self, *, again: bool = False) -> int:
        """Sign anew what needs it, unless this was done for the key that issues; gives how many.

        With `again` it is done all the same: for what a replica wrote that did not know of the new key yet.

        Raises:
            StoreError: as ever; it is taken up again the next time.
        """
        trust = await self._authority.refresh()
        issuing = self._authority.issuing.fingerprint
        if issuing == self._done_for and not again:
            return 0
        signatures = Signatures(trust_domain=trust.trust_domain, roots=trust.roots)
        count = 0
        for folder in FOLDERS:
            for item in (await self._store.list(folder)).items:
                # Others want to be served meanwhile: each signature takes a tenth of a millisecond.
                await trio.lowlevel.checkpoint()
                if self._is_due(signatures, item) and await self._sign(item):
                    count += 1
        self._done_for = issuing
        if count:
            _log.info("signed anew by the key that issues now", resources=count)
        return count

    def _is_due(self, signatures: Signatures, item: KeyValue) -> bool:
        try:
            signatures.require(item.key, item.value, at=self._clock())
            return verify(item.key, item.value)[0] != self._authority.issuing.certificate
        except (InvalidResource, BadSignature):
            return False

    async def _sign(self, item: KeyValue) -> bool:
        value = self._authority.sign_resource(item.key, item.value)
        # Whoever changed it meanwhile has signed it with the new key.
        write = Put(item.key, value, item.lease)
        return await self._store.commit([KeyIs(item.key, item.revision)], [write]) is not None
