"""The real registry on loopback over a store in memory: the agent's peer in tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import trio

from node_proxy.agent.credentials import Keyring
from node_proxy.agent.enrolment import join
from registry.ca.authority import Authority, make_founding
from registry.ca.enrolment import Registrar
from registry.ca.sealing import KeyFile
from registry.clock import utc_now
from registry.listening import Address, listen
from registry.serving import serve
from registry.store.base import Store
from tests.node_proxy.agent.documents import TRUST_DOMAIN


@dataclass(frozen=True)
class RealRegistry:
    """A registry that serves at `url`."""

    url: str
    store: Store
    registrar: Registrar
    authority: Authority

    async def token(
        self, pattern: str = "web-*", identities: tuple[str, ...] = ("default/web",), uses: int = 1
    ) -> str:
        """Make a join token."""
        made = await self.registrar.create_token(
            pattern=pattern, identities=identities, ttl=timedelta(hours=1), uses=uses
        )
        return str(made.text)

    async def join(self, keyring: Keyring, node: str = "web-1") -> None:
        """Let a node join and keep what it gets."""
        enrolment, held, _ = await join(registry=self.url, token=await self.token(), node=node)
        keyring.save(held)
        keyring.save_enrolment(enrolment)


@asynccontextmanager
async def serving_registry(store: Store) -> AsyncIterator[RealRegistry]:
    """Found a mesh in `store` and serve it."""
    kek = KeyFile(b"k" * 32)
    founding = make_founding(trust_domain=TRUST_DOMAIN, kek=kek, now=utc_now())
    await store.commit(founding.conditions, founding.writes)
    authority = await Authority.load(store, kek=kek, clock=utc_now)
    listener = listen(Address("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    stop = trio.Event()

    async def run() -> None:
        await serve(store=store, authority=authority, listener=listener, names=(), clock=utc_now, stop=stop)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield RealRegistry(url, store, Registrar(store=store, authority=authority, clock=utc_now), authority)
        nursery.cancel_scope.cancel()
