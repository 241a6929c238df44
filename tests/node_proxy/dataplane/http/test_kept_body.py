from collections.abc import Sequence

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.exchange import ExchangeBroken, MessageRefused
from node_proxy.dataplane.http.kept_body import MAX_KEPT, KeptBody, KeptBytes
from node_proxy.dataplane.http.message import Fields
from tests.fakes.exchanges import NOTHING, ScriptedBody


class Sink:
    """A client exchange that only takes the request."""

    def __init__(self, *, breaks_after: int = 1 << 40) -> None:
        self.sent = b""
        self.ended = False
        self.trailers: Fields = []
        self.reset_for = ""
        self._breaks_after = breaks_after

    async def send(self, data: bytes) -> None:
        """Take it, or break."""
        if len(self.sent) >= self._breaks_after:
            raise ExchangeBroken("test")
        self.sent += data

    async def end(self, trailers: Fields = NOTHING) -> None:
        """Take the end."""
        self.ended, self.trailers = True, trailers

    def reset(self, why: str) -> None:
        """Note it."""
        self.reset_for = why


async def send(body: KeptBody, sink: Sink) -> None:
    """Send a body as an attempt does."""
    sink.sent = body.begin()
    if body.ends_with_head:
        sink.ended = True
    else:
        await body.send_rest(sink)  # type: ignore[arg-type]


async def test_small_body_is_sent_again() -> None:
    """What fits is kept whole, and the second try sends the same."""
    room = KeptBytes()
    body = KeptBody(ScriptedBody(b"one", late=[b"two"]), None, room)
    first, second = Sink(), Sink()
    await send(body, first)
    await send(body, second)
    assert (first.sent, second.sent, second.ended, body.lost) == (b"onetwo", b"onetwo", True, False)
    assert room.total == 6
    body.forget()
    assert room.total == 0


async def test_large_body_is_sent_once() -> None:
    """What does not fit passes whole, is not kept, and says that it cannot be sent again."""
    room = KeptBytes()
    piece = b"x" * 40_000
    body = KeptBody(ScriptedBody(late=[piece, piece, piece]), None, room)
    sink = Sink()
    await send(body, sink)
    assert (len(sink.sent), sink.ended, body.lost, room.total) == (120_000, True, True, 0)


async def test_what_was_read_before_is_never_lost() -> None:
    """What is there before the first try is sent, even if it is more than may be kept."""
    room = KeptBytes()
    piece = b"x" * 40_000
    body = KeptBody(ScriptedBody(piece, piece, late=[b"end"]), None, room)
    body.read_nowait()
    sink = Sink()
    await send(body, sink)
    assert (sink.sent, body.lost, room.total) == (piece + piece + b"end", True, 0)


async def test_no_room() -> None:
    """When the worker keeps as much as it may, bodies still pass, and are counted."""
    room = KeptBytes(limit=4)
    body = KeptBody(ScriptedBody(b"four", b"more"), 8, room)
    await body.read_small()
    sink = Sink()
    await send(body, sink)
    assert (sink.sent, body.lost, room.total, room.refusals) == (b"fourmore", True, 0, 1)


async def test_second_try_goes_on_where_the_first_broke() -> None:
    """A try that broke in the middle of the body loses nothing of it for the next."""
    body = KeptBody(ScriptedBody(late=[b"one", b"two", b"three"]), None, KeptBytes())
    await send(body, Sink(breaks_after=3))
    second = Sink()
    await send(body, second)
    assert (second.sent, second.ended) == (b"onetwothree", True)


async def test_trailers() -> None:
    """Trailers are sent after the body, without what none may say."""
    trailers = [(b"digest", b"1"), (b"host", b"evil")]
    body = KeptBody(ScriptedBody(b"x", trailers=trailers), None, KeptBytes())
    body.read_nowait()
    assert body.whole
    assert not body.ends_with_head
    sink = Sink()
    await send(body, sink)
    assert sink.trailers == [(b"digest", b"1")]


@pytest.mark.parametrize("error", [ExchangeBroken("gone"), MessageRefused(400, "bad_chunk", "x")])
async def test_callers_failure(error: ExchangeBroken | MessageRefused) -> None:
    """A body that breaks on the caller's side resets the request, and is remembered as the caller's."""
    body = KeptBody(ScriptedBody(late=[b"x", error]), None, KeptBytes())
    sink = Sink()
    await send(body, sink)
    assert body.failure is error
    assert sink.reset_for
    assert not sink.ended


async def test_copy() -> None:
    """A copy is the same body, counted for itself; of what is not whole there is none."""
    room = KeptBytes()
    body = KeptBody(ScriptedBody(b"x"), 1, room)
    assert body.copy() is None
    await body.read_small()
    copy = body.copy()
    assert copy is not None
    assert room.total == 2
    body.forget()
    sink = Sink()
    await send(copy, sink)
    assert sink.sent == b"x"
    copy.forget()
    assert room.total == 0


@given(
    st.lists(st.integers(1, MAX_KEPT), max_size=6),
    st.lists(st.integers(1, MAX_KEPT), max_size=4),
    st.integers(0, 3 * MAX_KEPT),
)
def test_first_try_sends_all(there: Sequence[int], late: Sequence[int], limit: int) -> None:
    """However it comes in and whatever is kept, the first try sends every byte, and nothing stays counted."""
    pieces = [bytes([i]) * size for i, size in enumerate([*there, *late], 1)]

    async def run() -> None:
        room = KeptBytes(limit)
        body = KeptBody(ScriptedBody(*pieces[: len(there)], late=pieces[len(there) :]), None, room)
        body.read_nowait()
        sink = Sink()
        await send(body, sink)
        assert sink.sent == b"".join(pieces)
        if not body.lost:
            again = Sink()
            await send(body, again)
            assert again.sent == sink.sent
        body.forget()
        assert room.total == 0

    trio.run(run)
