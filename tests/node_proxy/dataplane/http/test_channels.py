"""One suite over all channels: whoever uses one need not know which it is."""

from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from node_proxy.dataplane.http.channel import Channel, ChannelBroken
from node_proxy.dataplane.http.memory_channel import memory_channels
from node_proxy.dataplane.http.socket_channel import SocketChannel
from node_proxy.dataplane.reactor import Reactor
from tests.fakes.eventually import eventually
from tests.fakes.stream_ends import stream_channels
from tests.fakes.tcp import tcp_pair

Pair = tuple[Channel, Channel]

# More than sockets, windows and inboxes hold between them.
LARGE = bytes(range(256)) * 64 * 1024


@pytest.fixture(params=["memory", "socket", "stream"])
async def pair(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Pair]:
    """Give two channels that are each other's far side."""
    near: Channel
    far: Channel
    if request.param == "socket":
        reactor = Reactor()
        await nursery.start(_run, reactor)
        near, far = (SocketChannel(each, reactor) for each in tcp_pair())
    else:
        near, far = memory_channels() if request.param == "memory" else stream_channels()
    yield near, far
    near.abort()
    far.abort()


async def _run(reactor: Reactor, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await reactor.run()


async def read_all(channel: Channel) -> bytes:
    """Receive to the end."""
    received = bytearray()
    while data := await channel.receive():
        received += data
    return bytes(received)


async def lost(channel: Channel) -> bool:
    """Receive until the channel says that it is broken."""
    try:
        while await channel.receive():
            pass
    except ChannelBroken:
        return True
    return False


class TestBytes:
    async def test_both_ways(self, pair: Pair) -> None:
        """Each side receives what the other sent."""
        near, far = pair
        await near.send(b"question")
        await far.send(b"answer")
        assert (await far.receive(), await near.receive()) == (b"question", b"answer")

    async def test_much_both_ways(self, pair: Pair) -> None:
        """Megabytes in both directions at once arrive whole and in order."""
        got: dict[str, bytes] = {}

        async def talk(name: str, channel: Channel) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, name, channel)
                for position in range(0, len(LARGE), 100_000):
                    await channel.send(LARGE[position : position + 100_000])
                channel.end()

        async def listen(name: str, channel: Channel) -> None:
            got[name] = await read_all(channel)

        near, far = pair
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(talk, "near", near)
                nursery.start_soon(talk, "far", far)
        assert got == {"near": LARGE, "far": LARGE}

    async def test_nothing_there(self, pair: Pair) -> None:
        """`receive_nowait` gives None while nothing has come, and what has come without waiting."""
        near, far = pair
        assert far.receive_nowait() is None
        near.send_nowait(b"here")
        got: list[bytes] = []

        def has_come() -> bool:
            data = far.receive_nowait()
            got.extend([] if data is None else [data])
            return data is not None

        await eventually(has_come)
        assert got == [b"here"]

    async def test_empty_send(self, pair: Pair) -> None:
        """To send nothing is no end."""
        near, far = pair
        await near.send(b"")
        await near.send(b"x")
        assert await far.receive() == b"x"

    async def test_cancelled_receive(self, pair: Pair) -> None:
        """A cancelled `receive` takes nothing with it."""
        near, far = pair
        with trio.move_on_after(0.01):
            await far.receive()
        await near.send(b"kept")
        assert await far.receive() == b"kept"


class TestBackpressure:
    async def test_reader_holds_up_sender(self, pair: Pair) -> None:
        """Who does not receive holds up who sends, within few megabytes; then everything goes on."""
        near, far = pair
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < len(LARGE):
                await near.send(LARGE[sent : sent + 65_536])
                sent += 65_536
            near.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.2)
            assert sent < len(LARGE) // 2
            assert await read_all(far) == LARGE

    async def test_nowait_tells(self, pair: Pair) -> None:
        """`send_nowait` takes everything, and says when it is time to wait."""
        near, far = pair
        sent = 0
        while near.send_nowait(bytes(65_536)):
            sent += 65_536
            assert sent < len(LARGE)
        near.end()
        assert len(await read_all(far)) == sent + 65_536

    async def test_reset_wakes_sender(self, pair: Pair) -> None:
        """A sender that is held up hears of a reset."""
        near, far = pair
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ChannelBroken):
                    await near.send(LARGE * 2)

            nursery.start_soon(send)
            await trio.sleep(0.05)
            far.abort()


class TestEnd:
    async def test_after_what_was_sent(self, pair: Pair) -> None:
        """The end comes behind the last bytes, and ever after."""
        near, far = pair
        await near.send(b"last")
        near.end()
        assert await far.receive() == b"last"
        assert [await far.receive(), far.receive_nowait()] == [b"", b""]

    async def test_other_direction_goes_on(self, pair: Pair) -> None:
        """Who has ended still receives."""
        near, far = pair
        near.end()
        assert await far.receive() == b""
        await far.send(b"answer")
        far.end()
        assert await read_all(near) == b"answer"

    async def test_is_no_break(self, pair: Pair) -> None:
        """Two orderly ends break nothing."""
        near, far = pair
        near.end()
        far.end()
        assert await far.receive() == await near.receive() == b""
        with trio.move_on_after(0.02) as waited:
            await near.wait_broken()
        assert waited.cancelled_caught
        assert not near.broken

    async def test_no_send_after(self, pair: Pair) -> None:
        """Who has ended sends no more."""
        near, _ = pair
        near.end()
        with pytest.raises(ChannelBroken):
            near.send_nowait(b"late")

    async def test_behind_what_is_queued(self, pair: Pair) -> None:
        """An end overtakes nothing that was queued."""
        near, far = pair
        near.send_nowait(LARGE)
        near.end()
        assert await read_all(far) == LARGE


class TestBreak:
    @pytest.mark.parametrize("watch", ["receive", "wait_broken", "when_broken", "broken"])
    async def test_abort_is_seen(self, pair: Pair, watch: str) -> None:
        """The other side of an abort learns of it in each way."""
        near, far = pair
        called: list[str] = []
        far.when_broken(lambda: called.append("called"))
        near.abort()
        ways: dict[str, Callable[[], object]] = {
            "when_broken": lambda: called == ["called"],
            "broken": lambda: far.broken,
        }
        with trio.fail_after(5):
            if watch == "receive":
                assert await lost(far)
            elif watch == "wait_broken":
                await far.wait_broken()
            else:
                await eventually(ways[watch])

    async def test_send_raises(self, pair: Pair) -> None:
        """Nothing can be sent to who has aborted."""
        near, far = pair
        near.abort()
        await far.wait_broken()
        with pytest.raises(ChannelBroken):
            await far.send(b"x")

    async def test_told_at_once(self, pair: Pair) -> None:
        """`when_broken` of a broken channel calls within the call."""
        near, _ = pair
        near.abort()
        called: list[str] = []
        near.when_broken(lambda: called.append("called"))
        assert called == ["called"]

    async def test_own_abort(self, pair: Pair) -> None:
        """Who aborts can neither send nor receive, whatever had come."""
        near, far = pair
        await far.send(b"x")
        near.abort()
        with pytest.raises(ChannelBroken):
            await near.receive()
        with pytest.raises(ChannelBroken):
            await near.send(b"x")

    async def test_abort_wakes_receiver(self, pair: Pair) -> None:
        """A task that waits in `receive` hears of an abort at its own side."""
        near, _ = pair
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(ChannelBroken):
                    await near.receive()

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.abort()


class TestClose:
    async def test_sends_what_is_queued(self, pair: Pair) -> None:
        """What was queued before a close arrives, and then the end."""
        near, far = pair
        near.send_nowait(LARGE)
        near.close()
        assert await read_all(far) == LARGE

    async def test_other_side_loses(self, pair: Pair) -> None:
        """Who goes on sending to a channel that was closed is told in the end."""
        near, far = pair
        near.close()

        async def send_for_ever() -> None:
            while True:
                await far.send(bytes(1000))
                await trio.lowlevel.checkpoint()

        with pytest.raises(ChannelBroken), trio.fail_after(5):
            await send_for_ever()

    async def test_twice(self, pair: Pair) -> None:
        """Closing and aborting again changes nothing."""
        near, far = pair
        await near.send(b"x")
        near.close()
        near.close()
        near.abort()
        assert await far.receive() == b"x"
