"""SOCKS version 5 (RFC 1928), the server's side: CONNECT alone, without authentication. Pure.

Who calls is known from the socket, so no method of authentication could add anything.
"""

import enum
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from node_proxy.dataplane.destination import Destination, read_destination
from node_proxy.dataplane.handshake import Refused
from node_proxy.dataplane.reason import Reason

_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_NO_ACCEPTABLE_METHOD: Final = 0xFF
_CONNECT: Final = 1
_PORT: Final = struct.Struct("!H")


class Reply(enum.IntEnum):
    """RFC 1928 section 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    # Said of a packet that was under way for too long, and so is this.
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


_REPLIES: Final = {
    Refused.DENIED: Reply.NOT_ALLOWED,
    Refused.UNKNOWN: Reply.HOST_UNREACHABLE,
    Refused.UNREACHABLE: Reply.CONNECTION_REFUSED,
    Refused.LATE: Reply.TTL_EXPIRED,
    Refused.FAILED: Reply.GENERAL_FAILURE,
}


class AddressType(enum.IntEnum):
    """RFC 1928 section 5."""

    IPV4 = 1
    NAME = 3
    IPV6 = 4


class _State(enum.Enum):
    GREETING = enum.auto()
    REQUEST = enum.auto()
    DONE = enum.auto()


class Socks5:
    """A `Handshake`. Messages are at most 262 bytes, so nothing needs a bound."""

    def __init__(self) -> None:
        self.destination: Destination | None = None
        self.broken = ""
        self._state = _State.GREETING
        self._buffer = bytearray()
        self._output = b""

    def receive(self, data: bytes) -> int:
        """Take bytes; gives how many of them belong to the handshake."""
        before = len(self._buffer)
        used = 0
        self._buffer += data
        if self._state is _State.GREETING and (length := self._greeting()):
            used += length
            del self._buffer[:length]
        if self._state is _State.REQUEST and (length := self._request()):
            used += length
            self._buffer.clear()
            self._state = _State.DONE
        # Of a message that is not whole yet every byte belongs to it.
        return used - before if self._state is _State.DONE else len(data)

    def take_output(self) -> bytes:
        """Give, once, what is to be sent now."""
        output, self._output = self._output, b""
        return output

    def granted(self) -> bytes:
        """Give the answer after which payload flows."""
        return _reply(Reply.SUCCEEDED)

    def refused(self, why: Refused, _reason: Reason) -> bytes:
        """Give the answer before the connection is closed."""
        return _reply(_REPLIES[why])

    def _greeting(self) -> int:
        """Read the greeting; gives its length, 0 while it is not whole."""
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            return self._break("this is not SOCKS version 5", b"")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return 0
        methods = buffer[2 : 2 + buffer[1]]
        if _NO_AUTHENTICATION not in methods:
            reason = "the client insists on authentication, and there is none here"
            return self._break(reason, bytes([_VERSION, _NO_ACCEPTABLE_METHOD]))
        self._output = bytes([_VERSION, _NO_AUTHENTICATION])
        self._state = _State.REQUEST
        return 2 + len(methods)

    def _request(self) -> int:
        """Read the request; gives its length, 0 while it is not whole."""
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            return self._break("a request of another version", _reply(Reply.GENERAL_FAILURE))
        if len(buffer) < 5:
            return 0
        kind = buffer[3]
        match kind:
            case AddressType.IPV4:
                start, length = 4, 4
            case AddressType.IPV6:
                start, length = 4, 16
            case AddressType.NAME:
                start, length = 5, buffer[4]
            case _:
                return self._break(f"an address of type {kind}", _reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED))
        end = start + length + _PORT.size
        if len(buffer) < end:
            return 0
        if buffer[1] != _CONNECT:
            return self._break(f"command {buffer[1]} is not CONNECT", _reply(Reply.COMMAND_NOT_SUPPORTED))
        address = bytes(buffer[start : start + length])
        (port,) = _PORT.unpack_from(buffer, start + length)
        try:
            self.destination = read_destination(_host(kind, address), port)
        except ValueError as error:
            return self._break(str(error), _reply(Reply.GENERAL_FAILURE))
        return end

    def _break(self, why: str, output: bytes) -> int:
        self.broken = why
        self._output += output
        self._state = _State.DONE
        return len(self._buffer)


def _host(kind: int, address: bytes) -> str:
    match kind:
        case AddressType.IPV4:
            return str(IPv4Address(address))
        case AddressType.IPV6:
            return str(IPv6Address(address))
        case _:
            return address.decode("ascii")


def _reply(reply: Reply) -> bytes:
    # The address we are bound to says nothing to the caller: the stream begins at another host's proxy.
    return bytes([_VERSION, reply, 0, AddressType.IPV4, 0, 0, 0, 0, 0, 0])
