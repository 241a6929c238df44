import hyperframe.frame
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.tunnel import frames

STREAM_IDS = st.integers(0, 2**31 - 1)
OPEN_IDS = st.integers(1, 2**31 - 1)
LENGTHS = st.integers(0, 2**24 - 1)
INCREMENTS = st.integers(1, frames.MAX_WINDOW)
# Where in a buffer a frame begins.
OFFSETS = st.integers(0, 40)


@given(OPEN_IDS, LENGTHS)
def test_data_header_round_trip(stream_id: int, length: int) -> None:
    """What a DATA header says is read back from it."""
    buffer = bytearray(frames.FRAME_HEADER)
    frames.write_data_header(buffer, stream_id, length)
    assert frames.read_header(buffer, 0) == (length, frames.DATA, 0, stream_id)


@given(OPEN_IDS, st.binary(max_size=100))
def test_data_header_leaves_the_payload_alone(stream_id: int, payload: bytes) -> None:
    """Writing a header touches nine bytes and no more."""
    buffer = bytearray(frames.FRAME_HEADER) + payload
    frames.write_data_header(buffer, stream_id, len(payload))
    assert buffer[frames.FRAME_HEADER :] == payload


@given(OFFSETS, STREAM_IDS, INCREMENTS)
def test_window_update_round_trip(offset: int, stream_id: int, increment: int) -> None:
    """What a WINDOW_UPDATE says is read back from wherever it lies in a buffer."""
    buffer = bytearray(offset) + frames.window_update(stream_id, increment)
    assert frames.read_header(buffer, offset) == (4, frames.WINDOW_UPDATE, 0, stream_id)
    assert frames.read_increment(buffer, offset) == increment


@given(OFFSETS, STREAM_IDS, st.integers(0, 2**32 - 1))
def test_goaway_round_trip(offset: int, last_stream_id: int, code: int) -> None:
    """What a GOAWAY says is read back from wherever it lies in a buffer."""
    buffer = bytearray(offset) + frames.goaway(last_stream_id, code)
    assert frames.read_header(buffer, offset) == (8, frames.GOAWAY, 0, 0)
    assert frames.read_goaway(buffer, offset) == (last_stream_id, code)


@given(st.binary(min_size=frames.FRAME_HEADER, max_size=60))
def test_reserved_bit_is_ignored(wire: bytes) -> None:
    """The reserved bit before a stream id never shows in it (RFC 9113 section 4.1)."""
    _, _, _, stream_id = frames.read_header(memoryview(wire), 0)
    assert stream_id < 2**31


@given(OPEN_IDS, LENGTHS)
def test_headers_agree_with_hyperframe(stream_id: int, length: int) -> None:
    """Another implementation reads the same from a header of ours."""
    buffer = bytearray(frames.FRAME_HEADER)
    frames.write_data_header(buffer, stream_id, length)
    frame, read_length = hyperframe.frame.Frame.parse_frame_header(memoryview(buffer))
    assert (type(frame), frame.stream_id, read_length) == (hyperframe.frame.DataFrame, stream_id, length)


@given(OPEN_IDS)
def test_end_stream_agrees_with_hyperframe(stream_id: int) -> None:
    """The empty DATA frame with END_STREAM is the one that another implementation makes."""
    other = hyperframe.frame.DataFrame(stream_id, flags=["END_STREAM"])
    assert frames.empty_end_stream(stream_id) == other.serialize()


@given(OPEN_IDS, INCREMENTS)
def test_window_update_agrees_with_hyperframe(stream_id: int, increment: int) -> None:
    """A WINDOW_UPDATE is byte for byte the one that another implementation makes."""
    other = hyperframe.frame.WindowUpdateFrame(stream_id, window_increment=increment)
    assert frames.window_update(stream_id, increment) == other.serialize()


@given(STREAM_IDS, st.integers(0, 2**32 - 1))
def test_goaway_agrees_with_hyperframe(last_stream_id: int, code: int) -> None:
    """A GOAWAY is byte for byte the one that another implementation makes."""
    other = hyperframe.frame.GoAwayFrame(0, last_stream_id=last_stream_id, error_code=code)
    assert frames.goaway(last_stream_id, code) == other.serialize()
