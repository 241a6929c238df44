"""WebSockets of the `websockets` library through both proxies."""

from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from registry.model.service import PortProtocol
from tests.integration.certificates import Authority
from tests.integration.chat import FLOOD, LEAVING, Chat, receive, run_chat, talk_at_once, ws_url
from tests.integration.pair import Pair, run_pair
from tests.integration.workloads import PATIENCE, digest_of_blocks, wait_quiet

# Of both proxies together: a quarter of what would be read ahead if nothing held it up.
MEMORY_ALLOWED = 16 << 20
ROUNDS = 200


@pytest.fixture(scope="module")
def stage(authority: Authority) -> Iterator[tuple[Pair, Chat]]:
    """Run the server behind both proxies."""
    with run_chat() as (port, chat), run_pair(authority, {"api": [port]}, protocol=PortProtocol.HTTP) as pair:
        yield pair, chat


@pytest.fixture
def call(stage: tuple[Pair, Chat]) -> Callable[[str], ClientConnection]:
    """Give what connects to a path."""
    return lambda path: connect(ws_url(stage[0], path), proxy=None, compression=None, max_size=None)


def test_conversation(call: Callable[[str], ClientConnection]) -> None:
    """Text, bytes and pings pass one by one for as long as somebody has something to say."""
    with call("/echo") as caller:
        for number in range(ROUNDS):
            for said in (f"{number} — again", number.to_bytes(4) * number):
                caller.send(said)
                assert caller.recv(PATIENCE) == said
        assert caller.ping().wait(PATIENCE)


def test_both_directions(stage: tuple[Pair, Chat]) -> None:
    """Both sides talk at once, without a pause, and hear each other whole."""
    talk_at_once(stage[0])


def test_slow_reader(stage: tuple[Pair, Chat], call: Callable[[str], ClientConnection]) -> None:
    """Who does not listen costs the proxies little, and misses nothing once it does."""
    pair, chat = stage
    with call("/echo") as caller:
        caller.send("hello")
        assert caller.recv(PATIENCE) == "hello"
        held = pair.memory()
        with call("/flood") as slow:
            assert 0 < wait_quiet(lambda: chat.flooded) < FLOOD
            assert pair.memory() - held < MEMORY_ALLOWED
            caller.send("still there")
            assert caller.recv(PATIENCE) == "still there"
            assert receive(slow, FLOOD) == digest_of_blocks(FLOOD)
        chat.flooded = 0


def test_goodbyes(stage: tuple[Pair, Chat], call: Callable[[str], ClientConnection]) -> None:
    """Why one side closes is heard by the other."""
    chat = stage[1]
    with call("/leave") as caller:
        with pytest.raises(ConnectionClosed) as closed:
            caller.recv(PATIENCE)
        assert closed.value.rcvd
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (LEAVING, "enough")
    with call("/echo") as caller:
        caller.close(LEAVING, "so have I")
    heard = iter(lambda: chat.ended["/echo"].get(timeout=PATIENCE), None)
    assert (LEAVING, "so have I") in heard
