"""Header blocks: what we write, and what we read of others, against hpack."""

import time

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.dataplane.http.h2_block_reader import BlockReader
from node_proxy.dataplane.http.h2_blocks import LEAST_FRAME, header_frames, write_block
from node_proxy.dataplane.http.message import Fields
from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel import frames
from node_proxy.tunnel.headers import HeaderBlocks

_LIST = 64 * 1024
_names = st.sampled_from(
    [b":path", b":method", b"cookie", b"authorization", b"x-a", b"grpc-timeout"]
) | st.binary(max_size=150)
_values = st.sampled_from([b"GET", b"/", b"trailers", b""]) | st.binary(max_size=150)
_fields = st.lists(st.tuples(_names, _values), max_size=12)


def _by_hpack(block: bytes) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in hpack.Decoder().decode(block, raw=True)]


@given(_fields)
def test_written(fields: Fields) -> None:
    """Others read what we write, and so do we."""
    block = write_block(fields)
    assert _by_hpack(block) == fields
    assert BlockReader(_LIST).read(block) == fields


@given(st.lists(st.tuples(_fields, st.booleans(), st.sampled_from([0, 64, 200, 4096])), max_size=8))
def test_read(blocks: list[tuple[Fields, bool, int]]) -> None:
    """Whatever hpack writes we read, one block after the other, with a table that grows and shrinks."""
    writer, reader = hpack.Encoder(), BlockReader(_LIST)
    for fields, huffman, size in blocks:
        writer.header_table_size = size
        assert reader.read(writer.encode(fields, huffman=huffman)) == fields


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_garbage(blocks: list[bytes]) -> None:
    """Of garbage we read what hpack reads, or refuse it; an error costs the connection and nothing else."""
    reader, other = BlockReader(_LIST), hpack.Decoder()
    for block in blocks:
        try:
            found = reader.read(block)
        except RemoteProtocolError:
            return
        assert found == [(bytes(name), bytes(value)) for name, value in other.decode(block, raw=True)]


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xbe",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x40",
        b"\x40\x01",
        b"\x40\x01a",
        b"\x40\x01a\x05b",
        b"\x00\x01a\x7f",
        b"\x7f\x00",
        b"\x3f\xff\xff\x03",
        b"\x82\x20",
        b"\x00\x81\xff\x00",
        b"\x00\x84\xff\xff\xff\xff\x00",
    ],
)
def test_broken(block: bytes) -> None:
    """Blocks that end too early, name what is not there, or resize out of turn cost the connection."""
    with pytest.raises(RemoteProtocolError) as error:
        BlockReader(_LIST).read(block)
    assert error.value.code == 9


def test_bomb() -> None:
    """A small block that stands for a large header is refused before it is large."""
    reader = BlockReader(_LIST)
    reader.read(b"\x40\x01a" + b"\x7f\xa1\x1e" + b"b" * 4000)
    with pytest.raises(RemoteProtocolError) as error:
        reader.read(b"\xbe" * 1000)
    assert error.value.code == frames.ENHANCE_YOUR_CALM


def test_linear() -> None:
    """Sixteen times as many fields take about sixteen times as long, not the square of it."""

    def seconds(count: int) -> float:
        block = b"\x00\x01a\x01b" * count
        best = 1.0
        for _ in range(3):
            began = time.perf_counter()
            BlockReader(1024 * count).read(block)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(32_000) < 64 * seconds(2_000)


@given(st.integers(0, 3 * LEAST_FRAME), st.booleans())
def test_frames(length: int, end: bool) -> None:
    """A block that is longer than a frame goes on in others, and is one again."""
    block = write_block([(b"a", b"b" * length)])
    written = memoryview(header_frames(5, block, end_stream=end))
    blocks = HeaderBlocks(BlockReader(_LIST), max_block=_LIST)
    position = 0
    found = None
    while position < len(written):
        size, kind, flags, stream_id = frames.read_header(written, position)
        assert size <= LEAST_FRAME
        blocks.check_next(kind, stream_id)
        payload = written[position + frames.FRAME_HEADER :][:size]
        found = blocks.receive(kind, flags, stream_id, payload)
        position += frames.FRAME_HEADER + size
    assert found is not None
    assert (found.stream_id, found.end_stream, found.fields) == (5, end, [(b"a", b"b" * length)])
