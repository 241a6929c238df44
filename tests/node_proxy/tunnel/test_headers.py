"""RFC 7541 (header blocks) and RFC 9113 sections 4.3, 6.2, 6.10 and 8.2 to 8.5, without a connection."""

import itertools
from collections.abc import Iterable

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.errors import RemoteProtocolError
from node_proxy.tunnel.frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
)
from node_proxy.tunnel.headers import (
    MAX_HEADER_BLOCK,
    MAX_REASON,
    NO_TABLE,
    REASON_HEADER,
    Fields,
    HeaderBlock,
    HeaderBlocks,
    HeaderReader,
    malformed,
    write_accepted,
    write_refused,
    write_request,
)
from node_proxy.tunnel.http2 import COMPRESSION_ERROR, MAX_HEADER_LIST_SIZE, PROTOCOL_ERROR

AUTHORITIES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=300)
FIELDS = st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200)), max_size=4)
# Few, so that they repeat and are taken from the dynamic table; some are those of our own blocks.
REPEATED = st.lists(
    st.tuples(
        st.sampled_from([b":method", b":authority", b":status", b"traceparent", b"x"]),
        st.sampled_from([b"CONNECT", b"200", b"10.0.0.2:8080", b"y" * 130, b""]),
        st.booleans(),
    ),
    max_size=4,
)
CONNECT: Fields = [(b":method", b"CONNECT"), (b":authority", b"10.0.0.2:8080")]
ANSWER: Fields = [(b":status", b"200")]


def decode(decoder: hpack.Decoder, block: bytes) -> Fields:
    """Read a block as an implementation does that knows nothing of ours."""
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def read_by_both(block: bytes) -> Fields:
    """Read a block by hpack, which must give what our reader gives."""
    theirs = decode(hpack.Decoder(), block)
    assert list(HeaderReader().read(block)) == theirs
    return theirs


class TestWritten:
    @given(AUTHORITIES, FIELDS)
    def test_request(self, authority: str, fields: Fields) -> None:
        """A request is read back as a CONNECT to its authority with its headers."""
        expected = [(b":method", b"CONNECT"), (b":authority", authority.encode()), *fields]
        assert read_by_both(write_request(authority, fields)) == expected

    @pytest.mark.parametrize("length", [1, 126, 127, 128, 254, 255, 256, 127 + 2**7 - 1, 127 + 2**7, 2**14])
    def test_length_of_a_string(self, length: int) -> None:
        """A string of any length is written so that its length is read (RFC 7541 section 5.1)."""
        block = write_request("a" * length)
        assert decode(hpack.Decoder(max_header_list_size=2**20), block)[1] == (b":authority", b"a" * length)

    def test_accepted(self) -> None:
        """A 200 is read back as nothing else."""
        assert read_by_both(write_accepted()) == ANSWER

    @given(st.integers(100, 599), st.text(max_size=2 * MAX_REASON))
    def test_refused(self, status: int, reason: str) -> None:
        """A refusal carries its status and is well formed, whatever its reason."""
        fields = read_by_both(write_refused(status, reason))
        assert fields[0] == (b":status", b"%d" % status)
        assert [name for name, _ in fields[1:]] == [REASON_HEADER]
        assert malformed(fields, request=False) == ""

    def test_reason(self) -> None:
        """A reason of printable text comes through as it is."""
        reason = "denied; policy=default/no-web; id=7"
        assert read_by_both(write_refused(403, reason))[1] == (REASON_HEADER, reason.encode())

    def test_long_reason(self) -> None:
        """A reason is cut to a bounded length, and not behind a space."""
        reason = "x" * (MAX_REASON - 1) + " and more"
        assert read_by_both(write_refused(403, reason))[1] == (REASON_HEADER, b"x" * (MAX_REASON - 1))

    @given(FIELDS)
    def test_no_block_of_ours_is_kept_in_a_table(self, fields: Fields) -> None:
        """Our blocks leave the peer's dynamic table empty, so their order means nothing."""
        decoder = hpack.Decoder()
        for block in (write_request("a:1", fields), write_accepted(), write_refused(403, "denied")):
            decoder.decode(block, raw=True)
        assert len(decoder.header_table.dynamic_entries) == 0

    def test_a_peer_that_allows_no_table(self) -> None:
        """Behind the announcement of no table our blocks suit a peer that shrank its own (section 4.2)."""
        decoder = hpack.Decoder()
        decoder.max_allowed_table_size = 0
        assert decode(decoder, NO_TABLE + write_request("10.0.0.2:8080")) == CONNECT
        assert decode(decoder, write_accepted()) == ANSWER


class Talk:
    """A peer's encoder, our reader and a plain decoder that reads the same."""

    def __init__(self) -> None:
        self.encoder = hpack.Encoder()
        self.reader = HeaderReader()
        self.decoder = hpack.Decoder()

    def agree(self, block: bytes) -> bool:
        """Whether both read the next block alike."""
        return list(self.reader.read(block)) == decode(self.decoder, block)


class TestReader:
    @given(
        st.lists(
            st.one_of(
                st.tuples(REPEATED, st.booleans(), st.sampled_from([None, 0, 40, 100, 4096])),
                st.sampled_from([write_accepted(), write_request("10.0.0.2:8080"), write_refused(403, "x")]),
                st.just(write_request("10.0.0.2:8080", [(b"forwarded", b'for="10.0.0.9:4711"')])),
            ),
            max_size=20,
        )
    )
    def test_agrees_with_hpack(
        self, blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None] | bytes]
    ) -> None:
        """Whatever blocks follow each other, compressed ones and plain ones, hpack reads the same in them."""
        talk = Talk()
        for each in blocks:
            if isinstance(each, bytes):
                assert talk.agree(each)
                continue
            fields, huffman, table_size = each
            if table_size is not None:
                talk.encoder.header_table_size = table_size
            assert talk.agree(bytes(talk.encoder.encode(fields, huffman=huffman)))

    @given(st.lists(st.binary(max_size=40), max_size=6))
    def test_agrees_with_hpack_on_anything(self, blocks: list[bytes]) -> None:
        """Bytes at random are read as hpack reads them, or refused as it refuses them."""
        talk = Talk()
        for block in blocks:
            try:
                expected = decode(talk.decoder, block)
            except hpack.HPACKError:
                with pytest.raises(RemoteProtocolError):
                    talk.reader.read(block)
                return
            assert list(talk.reader.read(block)) == expected

    @given(
        st.binary(max_size=8),
        st.sampled_from(
            [
                write_accepted(),
                write_request("a:1"),
                write_request("a:1", [(b"forwarded", b"for=b"), (b"x", b"")]),
            ]
        ),
        st.integers(0, 40),
    )
    def test_agrees_on_what_resembles_our_own(self, noise: bytes, plain: bytes, position: int) -> None:
        """A block that is almost one of ours is read as what it is."""
        block = plain[:position] + noise + plain[position + 1 :]
        try:
            expected = decode(hpack.Decoder(), block)
        except hpack.HPACKError:
            with pytest.raises(RemoteProtocolError):
                HeaderReader().read(block)
        else:
            assert list(HeaderReader().read(block)) == expected

    def test_unreadable(self) -> None:
        """An index into nothing loses the connection with COMPRESSION_ERROR (RFC 9113 section 4.3)."""
        with pytest.raises(RemoteProtocolError) as raised:
            HeaderReader().read(b"\xff\x00")
        assert raised.value.code == COMPRESSION_ERROR

    def test_too_large(self) -> None:
        """A list larger than we advertise loses the connection, since its state is lost."""
        with pytest.raises(RemoteProtocolError) as raised:
            HeaderReader().read(write_request("a" * MAX_HEADER_LIST_SIZE))
        assert raised.value.code == ENHANCE_YOUR_CALM


METHOD, AUTHORITY, STATUS = CONNECT[0], CONNECT[1], ANSWER[0]

MALFORMED_ANYWHERE: dict[str, tuple[bytes, bytes]] = {
    "upper-case": (b"Host", b"api"),
    "space-in-name": (b"x y", b"1"),
    "control-in-name": (b"x\x01", b"1"),
    "colon-in-name": (b"x:y", b"1"),
    "delete-in-name": (b"x\x7f", b"1"),
    "high-bit-in-name": (b"caf\xe9", b"1"),
    "no-name": (b"", b"1"),
    "nul-in-value": (b"x", b"a\x00b"),
    "line-feed-in-value": (b"x", b"a\nb"),
    "line-feed-at-the-end": (b"x", b"a\n"),
    "carriage-return-in-value": (b"x", b"a\rb"),
    "space-before-value": (b"x", b" a"),
    "tab-behind-value": (b"x", b"a\t"),
    "value-of-a-space": (b"x", b" "),
    "connection": (b"connection", b"close"),
    "proxy-connection": (b"proxy-connection", b"close"),
    "keep-alive": (b"keep-alive", b"timeout=5"),
    "transfer-encoding": (b"transfer-encoding", b"chunked"),
    "upgrade": (b"upgrade", b"websocket"),
    "te": (b"te", b"gzip"),
    "unknown-pseudo": (b":nonsense", b"1"),
    "bare-colon": (b":", b"1"),
}

MALFORMED_REQUESTS: dict[str, Fields] = {
    "status-in-request": [METHOD, AUTHORITY, STATUS],
    "twice": [METHOD, METHOD, AUTHORITY],
    "pseudo-behind-regular": [METHOD, (b"x", b"1"), AUTHORITY],
    "upper-case-pseudo": [METHOD, (b":Authority", b"a:1")],
    "line-feed-in-authority": [METHOD, (b":authority", b"a:1\nb")],
    "connect-with-scheme": [METHOD, AUTHORITY, (b":scheme", b"https")],
    "connect-with-path": [METHOD, AUTHORITY, (b":path", b"/")],
}

WELL_FORMED_REQUESTS: dict[str, Fields] = {
    "connect": CONNECT,
    "te-trailers": [*CONNECT, (b"te", b"trailers")],
    "te-trailers-in-another-case": [*CONNECT, (b"te", b"Trailers")],
    "empty-value": [*CONNECT, (b"x", b"")],
    "spaces-within": [*CONNECT, (b"user-agent", b"a \t b")],
    "odd-name": [*CONNECT, (b"!#$%&'*+-.^_`|~09az", b"1")],
    "high-bit-in-value": [*CONNECT, (b"x", b"caf\xc3\xa9")],
    "the-same-header-twice": [*CONNECT, (b"x", b"1"), (b"x", b"2")],
    "get": [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), AUTHORITY],
    "extended-connect": [
        METHOD,
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":path", b"/"),
        AUTHORITY,
    ],
}


class TestMalformed:
    @pytest.mark.parametrize("field", MALFORMED_ANYWHERE.values(), ids=MALFORMED_ANYWHERE)
    def test_field(self, field: tuple[bytes, bytes]) -> None:
        """Some names and values may be in no message (sections 8.2 and 8.3)."""
        assert malformed([*CONNECT, field], request=True)
        assert malformed([*ANSWER, field], request=False)

    @pytest.mark.parametrize("fields", MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
    def test_request(self, fields: Fields) -> None:
        """Pseudo-headers come first, once, and are those of a CONNECT (sections 8.3 and 8.5)."""
        assert malformed(fields, request=True)

    @pytest.mark.parametrize("field", [METHOD, AUTHORITY, (b":path", b"/"), STATUS], ids=str)
    def test_answer(self, field: tuple[bytes, bytes]) -> None:
        """An answer has one pseudo-header, its status (section 8.3.2)."""
        assert malformed([*ANSWER, field], request=False)

    @pytest.mark.parametrize("fields", WELL_FORMED_REQUESTS.values(), ids=WELL_FORMED_REQUESTS)
    def test_well_formed(self, fields: Fields) -> None:
        """What the RFC allows is no error."""
        assert malformed(fields, request=True) == ""


def feed(
    blocks: HeaderBlocks, frames: Iterable[tuple[int, int, bytes]], stream_id: int
) -> HeaderBlock | None:
    """Give frames (kind, flags, payload) of one stream; gives what the last one gave."""
    block = None
    for kind, flags, payload in frames:
        assert block is None
        blocks.check_next(kind, stream_id)
        block = blocks.receive(kind, flags, stream_id, memoryview(payload))
    return block


class TestBlocks:
    @given(FIELDS, st.lists(st.integers(0, 100), max_size=6), st.booleans())
    def test_any_cut_gives_the_same_block(self, fields: Fields, cuts: list[int], ended: bool) -> None:
        """However a block is cut into HEADERS and CONTINUATION, it is the same block."""
        wire = write_request("10.0.0.2:8080", fields)
        edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
        parts = [wire[start:end] for start, end in itertools.pairwise(edges)]
        frames = [(CONTINUATION, 0, part) for part in parts]
        frames[0] = (HEADERS, END_STREAM if ended else 0, parts[0])
        kind, flags, last = frames[-1]
        frames[-1] = (kind, flags | END_HEADERS, last)
        block = feed(HeaderBlocks(), frames, 1)
        assert block is not None
        assert (block.stream_id, block.end_stream) == (1, ended)
        assert list(block.fields) == [*CONNECT, *fields]

    @pytest.mark.parametrize(
        ("flags", "before", "behind"),
        [
            (PADDED, b"\x00", b""),
            (PADDED, b"\x03", b"\xff\xff\xff"),
            (HAS_PRIORITY, bytes(5), b""),
            (PADDED | HAS_PRIORITY, b"\x02" + b"\x80\x00\x00\x01\xff", bytes(2)),
        ],
        ids=["no-padding", "padding", "priority", "both"],
    )
    def test_padding_and_priority(self, flags: int, before: bytes, behind: bytes) -> None:
        """Padding and priority are no part of the block (section 6.2)."""
        payload = before + write_request("10.0.0.2:8080") + behind
        block = feed(HeaderBlocks(), [(HEADERS, flags | END_HEADERS, payload)], 1)
        assert block is not None
        assert list(block.fields) == CONNECT

    def test_continuation_has_no_padding(self) -> None:
        """The bit that means padding in HEADERS means nothing in CONTINUATION (section 6.10)."""
        wire = write_request("10.0.0.2:8080")
        frames = [(HEADERS, 0, wire[:4]), (CONTINUATION, END_HEADERS | PADDED, wire[4:])]
        block = feed(HeaderBlocks(), frames, 1)
        assert block is not None
        assert list(block.fields) == CONNECT

    @pytest.mark.parametrize(
        ("flags", "payload", "code"),
        [
            (PADDED, b"", PROTOCOL_ERROR),
            (PADDED, b"\x01", PROTOCOL_ERROR),
            (HAS_PRIORITY, bytes(4), FRAME_SIZE_ERROR),
            (PADDED | HAS_PRIORITY, b"\x02" + bytes(6), FRAME_SIZE_ERROR),
        ],
        ids=["no-length", "more-than-there-is", "short-priority", "padding-over-priority"],
    )
    def test_frame_too_small(self, flags: int, payload: bytes, code: int) -> None:
        """A frame that lacks what its flags announce loses the connection (section 6.2)."""
        with pytest.raises(RemoteProtocolError) as raised:
            feed(HeaderBlocks(), [(HEADERS, flags | END_HEADERS, payload)], 1)
        assert raised.value.code == code

    @pytest.mark.parametrize("size", [1, 1000, MAX_HEADER_BLOCK + 1])
    def test_endless(self, size: int) -> None:
        """A block that does not end is refused before it takes more memory than we allow (section 10.5.1)."""
        blocks = HeaderBlocks()
        feed(blocks, [(HEADERS, 0, b"")], 1)
        room = MAX_HEADER_BLOCK // size
        feed(blocks, [(CONTINUATION, 0, bytes(size))] * room, 1)
        with pytest.raises(RemoteProtocolError) as raised:
            feed(blocks, [(CONTINUATION, 0, bytes(size))], 1)
        assert raised.value.code == ENHANCE_YOUR_CALM

    @pytest.mark.parametrize(
        ("kind", "stream_id"), [(PING, 0), (HEADERS, 1), (HEADERS, 3), (CONTINUATION, 3)]
    )
    def test_interrupted(self, kind: int, stream_id: int) -> None:
        """While a block is open nothing but its own CONTINUATION may come (section 4.3)."""
        blocks = HeaderBlocks()
        feed(blocks, [(HEADERS, 0, b"")], 1)
        with pytest.raises(RemoteProtocolError):
            blocks.check_next(kind, stream_id)

    def test_anything_may_follow_a_whole_block(self) -> None:
        """When a block has ended, other frames may come."""
        blocks = HeaderBlocks()
        feed(blocks, [(HEADERS, 0, write_accepted()), (CONTINUATION, END_HEADERS, b"")], 1)
        blocks.check_next(PING, 0)

    def test_continuation_of_nothing(self) -> None:
        """CONTINUATION needs an open block, even of a stream that had one (section 6.10)."""
        blocks = HeaderBlocks()
        feed(blocks, [(HEADERS, END_HEADERS, write_accepted())], 1)
        with pytest.raises(RemoteProtocolError):
            feed(blocks, [(CONTINUATION, END_HEADERS, b"")], 1)

    @pytest.mark.parametrize("flags", [0, END_HEADERS])
    def test_headers_for_the_connection(self, flags: int) -> None:
        """Headers belong to a stream, whether their block is whole or not (section 6.2)."""
        with pytest.raises(RemoteProtocolError):
            feed(HeaderBlocks(), [(HEADERS, flags, write_accepted())], 0)

    def test_blocks_share_a_state(self) -> None:
        """A block may refer to one of another stream that came before it."""
        encoder, blocks = hpack.Encoder(), HeaderBlocks()
        first, second = (bytes(encoder.encode([*CONNECT, (b"x", b"long enough")])) for _ in range(2))
        assert len(second) < len(first)
        feed(blocks, [(HEADERS, END_HEADERS, first)], 1)
        block = feed(blocks, [(HEADERS, END_HEADERS, second)], 3)
        assert block is not None
        assert list(block.fields) == [*CONNECT, (b"x", b"long enough")]
