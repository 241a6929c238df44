"""A client of HTTP/2 that asks nothing of whoever has not shown that it speaks it."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node_proxy.dataplane.http.exchange import ExchangeBroken
from node_proxy.dataplane.http.h2_client import H2ClientConnection
from node_proxy.dataplane.http.limits import HttpLimits
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.message import RequestHead
from node_proxy.tunnel import frames
from tests.node_proxy.dataplane.http.h2_raw import PREFACE, kinds_of, settings

_GET = RequestHead(b"GET", b"/", b"api", [])
_LIMITS = HttpLimits(head_seconds=10, idle_seconds=50)


async def test_says_nothing_first() -> None:
    """A request goes out behind the server's SETTINGS, and not before."""
    near, far = memory_channels()
    async with trio.open_nursery() as nursery:
        client = H2ClientConnection(near, limits=_LIMITS, cautious=True)
        nursery.start_soon(client.run)
        nursery.start_soon(partial(client.request, _GET, end=True))
        await wait_all_tasks_blocked()
        first = far.receive_nowait() or b""
        assert frames.HEADERS not in kinds_of(first[len(PREFACE) :])
        await far.send(settings())
        await wait_all_tasks_blocked()
        # Behind our word that its SETTINGS came.
        assert frames.SETTINGS in kinds_of(far.receive_nowait() or b"")
        assert frames.HEADERS in kinds_of(far.receive_nowait() or b"")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_no_http2(answer: bytes, autojump_clock: MockClock) -> None:
    """Whoever is silent, or speaks HTTP/1.1, is asked nothing."""
    near, far = memory_channels()
    async with trio.open_nursery() as nursery:
        client = H2ClientConnection(near, limits=_LIMITS, cautious=True)
        nursery.start_soon(client.run)
        await wait_all_tasks_blocked()
        await far.send(answer)
        with pytest.raises(ExchangeBroken) as raised:
            await client.request(_GET, end=True)
        assert raised.value.untouched
