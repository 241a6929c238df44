"""Serving the API with hypercorn, and the controller beside it."""

import logging
import secrets
import signal
import socket
import ssl
from collections.abc import Callable
from datetime import timedelta
from typing import cast

import hypercorn.trio
import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from registry.api.app import create_app
from registry.ca.authority import Authority
from registry.ca.sealing import Kek
from registry.ca.signed_store import SignedStore
from registry.ca.upkeep import Upkeep
from registry.clock import Clock
from registry.controller import Controller
from registry.errors import StoreUnavailable
from registry.listening import Address, certificate_names, listen, url_of
from registry.logs import StructlogHandler
from registry.server_identity import ServerIdentity
from registry.store.accounts import Accounts
from registry.store.base import Store

# A slow or silent peer holds a connection, never a thread; this is how long.
HANDSHAKE_SECONDS = 10
READ_SECONDS = 60
DRAIN_SECONDS = 5.0
STORE_RETRY_SECONDS = 1.0

_log = structlog.get_logger()


class _Hypercorn(Config):
    """Hypercorn's settings around a TLS context of ours, which it would otherwise make from files."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context
        self.bind = [f"fd://{listener.detach()}"]
        self.errorlog = _hypercorn_log()
        self.include_server_header = False
        self.ssl_handshake_timeout = HANDSHAKE_SECONDS
        self.read_timeout = READ_SECONDS
        self.graceful_timeout = DRAIN_SECONDS

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_ssl_context(self) -> ssl.SSLContext:
        return self._context


def _hypercorn_log() -> logging.Logger:
    log = logging.getLogger("hypercorn.error")
    log.handlers = [StructlogHandler()]
    log.propagate = False
    log.setLevel(logging.WARNING)
    return log


async def serve_from_store(
    store: Store,
    *,
    kek: Kek,
    address: Address,
    names: tuple[str, ...],
    leaf_lifetime: timedelta,
    clock: Clock,
    accounts: Accounts | None = None,
    on_ready: Callable[[Address], None] = lambda _: None,
) -> None:
    """Serve the mesh founded in `store` until SIGINT or SIGTERM; `on_ready` is called when the API listens.

    Raises:
        ConfigError: there is no mesh, the key-encryption key is the wrong one, or the address is taken.
        StoreForbidden: etcd refuses the credentials.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_on_signal, stop)
        authority = await _load(store, kek=kek, leaf_lifetime=leaf_lifetime, clock=clock, stop=stop)
        if authority is not None:
            listener = listen(address)
            on_ready(Address(*listener.getsockname()[:2]))
            await serve(
                store=store,
                authority=authority,
                listener=listener,
                names=names,
                clock=clock,
                stop=stop,
                accounts=accounts,
            )
        nursery.cancel_scope.cancel()
    _log.info("stopped")


async def _load(
    store: Store, *, kek: Kek, leaf_lifetime: timedelta, clock: Clock, stop: trio.Event
) -> Authority | None:
    """Load the authority, waiting for a store that starts later than we do; None when stopped before."""
    while not stop.is_set():
        try:
            return await Authority.load(store, kek=kek, leaf_lifetime=leaf_lifetime, clock=clock)
        except StoreUnavailable as error:
            _log.warning("waiting for the store", reason=str(error))
            with trio.move_on_after(STORE_RETRY_SECONDS):
                await stop.wait()
    return None


async def _set_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            _log.info("stopping", signal=signal.Signals(number).name)
            stop.set()
            # The next signal has its usual effect again: a peer that stalls can hold a clean end up.
            return


async def serve(
    *,
    store: Store,
    authority: Authority,
    listener: socket.socket,
    names: tuple[str, ...],
    clock: Clock,
    stop: trio.Event,
    accounts: Accounts | None = None,
) -> None:
    """Serve the API on `listener`, which is closed at the end, and run the controller, until `stop` is set.

    Connections are accepted, by the kernel, from the start. Requests under way at the end get some seconds;
    when cancelled they are cut.

    Raises:
        StoreForbidden: etcd refuses the controller.
    """
    address = Address(*listener.getsockname()[:2])
    identity = ServerIdentity(authority=authority, names=certificate_names(address, names), clock=clock)
    # The random part tells two replicas on hosts of one name apart.
    replica = f"{socket.gethostname()}-{secrets.token_hex(4)}"
    upkeep = Upkeep(store=store, authority=authority, clock=clock, accounts=accounts)
    controller = Controller(
        store=store,
        trust_domain=authority.trust_domain,
        replica=replica,
        signed=SignedStore(store=store, authority=authority, clock=clock),
        upkeep=upkeep.run,
        clock=clock,
    )
    # Starlette and Hypercorn write ASGI's one signature down in different types.
    app = cast("ASGIFramework", create_app(store=store, authority=authority, clock=clock, accounts=accounts))
    config = _Hypercorn(listener, identity.context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(controller.run)
        nursery.start_soon(identity.keep_fresh)
        _log.info("serving", url=url_of(address, names), replica=replica)
        await hypercorn.trio.serve(app, config, shutdown_trigger=stop.wait, mode="asgi")
        nursery.cancel_scope.cancel()
