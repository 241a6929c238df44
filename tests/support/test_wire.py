import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import Capture, Findings, StreamReader

MARKER = b"a-marker-to-look-for"
HANDSHAKE = b"\x16\x03\x01\x00\x05hello"
DATA = b"\x17\x03\x03\x00\x08" + bytes(8)


def frame(*, sequence: int, payload: bytes = b"", flags: int = 0x10, port: int = 15008) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 40000, port, sequence % (1 << 32), 0, 5 << 4, flags, 1000, 0, 0) + payload
    ip = (
        struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + b"\x0a\x4d\x00\x01\x0a\x4d\x00\x02"
    )
    return b"\0" * 12 + b"\x08\x00" + ip + tcp


def capture() -> Capture:
    return Capture(ports=frozenset({15008}), markers=(MARKER,))


@given(st.lists(st.integers(min_value=1, max_value=7)))
def test_records_are_counted_however_the_stream_is_cut(cuts: list[int]) -> None:
    """Any chunking of a TLS stream yields the same counts."""
    findings = Findings()
    reader = StreamReader(findings, (MARKER,), whole=True)
    stream = HANDSHAKE + DATA + DATA
    for cut in cuts:
        reader.feed(stream[:cut])
        stream = stream[cut:]
    reader.feed(stream)
    assert findings.records == {"handshake": 1, "application_data": 2}
    assert findings.not_tls == 0


def test_plaintext_in_place_of_a_record_is_found() -> None:
    """A stream that stops being TLS is reported."""
    findings = Findings()
    StreamReader(findings, (), whole=True).feed(HANDSHAKE + b"GET / HTTP/1.1\r\n")
    assert findings.not_tls == 1


@given(st.integers(min_value=0, max_value=len(MARKER)))
def test_a_marker_over_two_segments_is_found_once(cut: int) -> None:
    """A marker cut in two anywhere is counted, and counted once."""
    findings = Findings()
    reader = StreamReader(findings, (MARKER,), whole=True)
    reader.feed(b"before " + MARKER[:cut])
    reader.feed(MARKER[cut:] + b" after")
    reader.feed(b"and more")
    assert findings.markers == {MARKER.decode(): 1}


def test_segments_out_of_order_and_sent_twice_are_put_right() -> None:
    """Reordered and repeated segments, over the wrap of the sequence number, give the stream as it was."""
    start = (1 << 32) - 3
    taps = capture()
    taps.feed(frame(sequence=start - 1, flags=0x02))
    stream = HANDSHAKE + DATA + MARKER
    pieces = [(at, stream[at : at + 6]) for at in range(0, len(HANDSHAKE + DATA), 6)]
    for at, piece in [*pieces[1::2], *pieces[::2], *pieces]:
        taps.feed(frame(sequence=start + at, payload=piece))
    assert taps.tls.records == {"handshake": 1, "application_data": 1}
    assert taps.tls.payload_bytes == sum(len(piece) for _, piece in pieces)
    assert taps.tls.gaps == 0


def test_other_ports_are_searched_but_not_held_to_tls() -> None:
    """Plain traffic beside the tunnels is searched for markers and does not count as a broken tunnel."""
    taps = capture()
    taps.feed(frame(sequence=1, payload=b"plain " + MARKER, port=2379))
    assert taps.other.markers == {MARKER.decode(): 1}
    assert taps.tls.not_tls == 0


def test_a_stream_joined_in_its_middle_is_read_from_a_records_start() -> None:
    """Records are counted from the first segment that begins with one."""
    taps = capture()
    taps.feed(frame(sequence=1, payload=b"the rest of a record"))
    taps.feed(frame(sequence=21, payload=DATA + DATA))
    assert taps.tls.records == {"application_data": 2}
    assert taps.tls.not_tls == 0
