"""Opens outbound tunnels for the pool, and cuts those whose peer may not stay."""

from weakref import WeakKeyDictionary

import trio

from node_proxy.address import join_address
from node_proxy.dataplane import telemetry
from node_proxy.dataplane.context import WorkerContext
from node_proxy.errors import HandshakeError, NodeProxyError, PeerIdentityError, TunnelClosed
from node_proxy.tunnel.calm import Calm
from node_proxy.tunnel.connection import TunnelConnection
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.peer import Peer
from node_proxy.tunnel.pool import TunnelKey
from node_proxy.tunnel.protocol import TunnelProtocol
from node_proxy.tunnel.sockets import connect
from node_proxy.tunnel.tls import connect_tls, refuse

# TCP and TLS to a peer: three round trips.
TUNNEL_TIMEOUT = 5.0


class TunnelDialler:
    """Opens tunnels with the credentials in force."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        # Tunnels that are being established, pooled or retired: a retired one may carry streams for days. The
        # pool lets go of each in its own time, so nothing here keeps them.
        self._peers: WeakKeyDictionary[TunnelConnection, Peer] = WeakKeyDictionary()

    def cut_untrusted(self) -> None:
        """Close every tunnel whose peer the credentials now in force object to, with all its streams."""
        contexts = self._context.enforced.contexts
        for tunnel, peer in list(self._peers.items()):
            if tunnel.closed is None and (objection := contexts.objection(peer)):
                self._context.tunnel_cut("outbound", peer, objection, streams=tunnel.protocol.open_streams)
                tunnel.close(TunnelClosed(objection.detail))

    async def open(self, key: TunnelKey) -> TunnelConnection:
        """Connect, shake hands, and check who answers.

        Raises:
            NodeProxyError: it failed; counted and logged with its reason.
        """
        try:
            with trio.fail_after(TUNNEL_TIMEOUT):
                tunnel = await self._handshake(key)
        except trio.TooSlowError:
            error: NodeProxyError = HandshakeError(
                f"no tunnel within {TUNNEL_TIMEOUT:.0f} s", reason="timeout"
            )
            self._tunnel_refused(key, "timeout", error)
            raise error from None
        except (PeerIdentityError, HandshakeError) as error:
            self._tunnel_refused(key, error.reason, error)
            raise
        except NodeProxyError as error:
            self._tunnel_refused(key, "connect", error)
            raise
        except Exception as error:
            # The pool's callers understand our errors only; theirs is the connection that this costs.
            self._context.crashed()
            raise TunnelClosed(f"internal error: {error!r}") from error
        self._context.telemetry.add(telemetry.TUNNELS_OPENED, side="outbound")
        return tunnel

    async def _handshake(self, key: TunnelKey) -> TunnelConnection:
        context = self._context
        client = context.enforced.contexts.client(key.source)
        sock = await connect(key.address, key.port, timeout=TUNNEL_TIMEOUT, mark=context.mark)
        tls = await connect_tls(sock, client, server_name=key.server_name)
        try:
            peer = context.enforced.contexts.require(tls, key.destination)
        except (HandshakeError, PeerIdentityError) as error:
            await refuse(tls, error)
            raise
        tunnel = TunnelConnection(
            tls,
            TunnelProtocol(Role.CLIENT, budget=context.budget, calm=Calm(context.clock())),
            poller=context.reactor,
            buffer=context.tunnel_buffer,
            clock=context.clock,
        )
        self._peers[tunnel] = peer
        try:
            tunnel.start()
            await tunnel.wait_established()
        except BaseException:
            tunnel.close(TunnelClosed("given up before it was established"))
            raise
        return tunnel

    def _tunnel_refused(self, key: TunnelKey, reason: str, error: NodeProxyError) -> None:
        self._context.telemetry.add(telemetry.TUNNELS_REFUSED, side="outbound", reason=reason)
        self._context.log.warning(
            "tunnel refused",
            side="outbound",
            peer=join_address(key.address, key.port),
            reason=reason,
            detail=str(error),
            source=key.source,
            destination=key.destination,
        )
