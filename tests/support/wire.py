"""What bytes on a wire are: puts captured TCP streams together, tells TLS records from anything else.

Pure. `tests.support.programs.wiretap` feeds it frames, `tests.support.programs.tap` whole streams.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field

# RFC 8446 section 5.1: content types, and the longest ciphertext.
RECORD_TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
_LONGEST_RECORD = (1 << 14) + 256
_RECORD = struct.Struct(">BHH")
# Text that is looked for may lie across two segments; no marker is longer than this.
_OVERLAP = 256
# Segments held back behind a missing one before it is taken for lost by the capture.
_PATIENCE = 64


@dataclass
class Findings:
    """What was seen in some streams. `records` counts complete TLS records by type."""

    payload_bytes: int = 0
    streams: int = 0
    records: Counter[str] = field(default_factory=Counter)
    not_tls: int = 0
    gaps: int = 0
    markers: Counter[str] = field(default_factory=Counter)
    sample: bytes = b""

    def as_dict(self) -> dict[str, object]:
        """The findings as JSON can carry them; the sample of raw bytes as hex."""
        return {
            "payload_bytes": self.payload_bytes,
            "streams": self.streams,
            "records": dict(self.records),
            "not_tls": self.not_tls,
            "gaps": self.gaps,
            "markers": dict(self.markers),
            "sample": self.sample.hex(),
        }


class StreamReader:
    """Reads one direction of one TCP connection, in order, into `findings`.

    A stream joined in its middle (`whole` unset) is read from the first segment that begins with the header
    of a record; from there on every record must follow the one before.
    """

    def __init__(self, findings: Findings, markers: tuple[bytes, ...], *, whole: bool) -> None:
        self._findings = findings
        self._markers = markers
        self._synchronised = whole
        self._tail = b""
        self._header = bytearray()
        self._body_left = 0
        self._broken = False
        findings.streams += 1

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        findings = self._findings
        findings.payload_bytes += len(data)
        window = self._tail + data
        for marker in self._markers:
            # What lay wholly in the tail was counted with the bytes before.
            found = window.count(marker) - self._tail.count(marker)
            if found:
                findings.markers[marker.decode()] += found
        self._tail = window[-_OVERLAP:]
        if data[:3] == b"\x17\x03\x03":
            self._synchronised = True
            findings.sample = findings.sample or data[:48]
        if self._synchronised and not self._broken:
            self._read_records(data)

    def skip(self) -> None:
        """Note that bytes are missing here; records are sought anew."""
        self._findings.gaps += 1
        self._synchronised = False
        self._header.clear()
        self._body_left = 0
        self._tail = b""

    def _read_records(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._body_left:
                step = min(self._body_left, len(data) - at)
                self._body_left -= step
                at += step
                continue
            take = _RECORD.size - len(self._header)
            self._header += data[at : at + take]
            at += take
            if len(self._header) < _RECORD.size:
                return
            kind, version, length = _RECORD.unpack(self._header)
            if (
                kind not in RECORD_TYPES
                or version not in (0x0301, 0x0303)
                or not 0 < length <= _LONGEST_RECORD
            ):
                self._findings.not_tls += 1
                self._broken = True
                return
            self._findings.records[RECORD_TYPES[kind]] += 1
            self._header.clear()
            self._body_left = length


@dataclass
class _Direction:
    reader: StreamReader
    next_sequence: int
    waiting: dict[int, bytes] = field(default_factory=dict)


class Capture:
    """Takes Ethernet frames in any order and keeps `findings` of the TCP streams on `ports`."""

    def __init__(self, *, ports: frozenset[int], markers: tuple[bytes, ...]) -> None:
        self.tls = Findings()
        self.other = Findings()
        self._ports = ports
        self._markers = markers
        self._streams: dict[bytes, _Direction] = {}

    def feed(self, frame: bytes) -> None:
        """Take one frame; anything but TCP over IPv4 or IPv6 is passed over."""
        match frame[12:14]:
            case b"\x08\x00":
                start = 14 + (frame[14] & 0xF) * 4
                protocol, addresses = frame[23], frame[26:34]
                # A length of 0 marks a segment too large for the field (offloads); then the frame ends it.
                end = 14 + int.from_bytes(frame[16:18]) if frame[16:18] != b"\0\0" else len(frame)
            case b"\x86\xdd":
                start = 54
                protocol, addresses = frame[20], frame[22:54]
                end = 54 + int.from_bytes(frame[18:20]) if frame[18:20] != b"\0\0" else len(frame)
            case _:
                return
        if protocol == 6:
            self._segment(addresses + frame[start : start + 4], frame[start:end])

    def _segment(self, flow: bytes, segment: bytes) -> None:
        source, destination, sequence = struct.unpack_from(">HHI", segment)
        opening = bool(segment[13] & 0x02)
        payload = segment[(segment[12] >> 4) * 4 :]
        direction = self._streams.get(flow)
        if direction is None or opening:
            findings = self.tls if self._ports & {source, destination} else self.other
            reader = StreamReader(findings, self._markers, whole=opening and findings is self.tls)
            direction = self._streams[flow] = _Direction(reader, (sequence + opening) % (1 << 32))
        if payload:
            direction.waiting[sequence] = payload
            self._deliver(direction)

    def _deliver(self, direction: _Direction) -> None:
        """Hand on what is next in order; bytes seen before are dropped, a lasting hole is skipped."""
        waiting = direction.waiting
        while waiting:
            sequence = min(waiting, key=lambda number: _distance(number, direction.next_sequence))
            ahead = _distance(sequence, direction.next_sequence)
            if ahead > 0 and len(waiting) < _PATIENCE:
                return
            payload = waiting.pop(sequence)
            if ahead > 0:
                direction.reader.skip()
                direction.next_sequence = sequence
            if fresh := payload[max(-ahead, 0) :]:
                direction.reader.feed(fresh)
                direction.next_sequence = (direction.next_sequence + len(fresh)) % (1 << 32)


def _distance(sequence: int, expected: int) -> int:
    """How far `sequence` lies ahead of `expected`, negative when behind (RFC 9293 section 3.4)."""
    return (sequence - expected + (1 << 31)) % (1 << 32) - (1 << 31)
