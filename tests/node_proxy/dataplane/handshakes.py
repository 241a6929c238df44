"""Feeds handshakes as a socket would, in whatever pieces."""

from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from node_proxy.dataplane.handshake import Handshake


def feed(handshake: Handshake, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Feed pieces until the handshake is over; gives what it sent and what it left unread."""
    sent, rest, over = b"", b"", False
    for piece in pieces:
        if over:
            rest += piece
            continue
        used = handshake.receive(piece)
        assert 0 <= used <= len(piece)
        sent += handshake.take_output()
        over = handshake.destination is not None or bool(handshake.broken)
        assert over or used == len(piece)
        rest += piece[used:]
    return sent, rest


def in_pieces(data: bytes) -> st.SearchStrategy[Sequence[bytes]]:
    """Cut bytes anywhere."""
    cuts = st.lists(st.integers(0, len(data)), max_size=6).map(sorted)
    return cuts.map(lambda at: [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True) if i < j])
