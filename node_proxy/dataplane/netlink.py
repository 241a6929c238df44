"""Questions to the kernel over netlink: one message there, one back, on a socket that stays open.

The kernel answers within the sending call, so nothing here waits: what is not there by then does not come.
"""

import errno
import os
import socket
import struct

# struct nlmsghdr: length, type, flags, sequence number, port.
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
# One socket's or one connection's description is a few hundred bytes.
_LARGEST_ANSWER = 8192
# Answers to former questions, which a question that failed half way may have left.
_MOST_STALE = 8


class NetlinkError(OSError):
    """The kernel refused or could not answer; `errno` says why."""


class NetlinkSocket:
    """One netlink family; opened at the first question and anew after a failure.

    Args:
        protocol: NETLINK_*.
    """

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._socket: socket.socket | None = None
        self._sequence = 0

    def ask(self, kind: int, question: bytes) -> bytes:
        """Ask and give the answer's payload.

        Raises:
            NetlinkError: ENOENT when there is no such thing; else something is wrong.
        """
        try:
            return self._ask(kind, question)
        except NetlinkError:
            raise
        except OSError as error:
            # Whatever state the socket is in, another one is clean.
            self.close()
            raise NetlinkError(error.errno, os.strerror(error.errno or 0)) from error

    def close(self) -> None:
        """Close the socket; the next question opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, kind: int, question: bytes) -> bytes:
        sock = self._socket
        if sock is None:
            sock = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                self._protocol,
            )
            self._socket = sock
            sock.bind((0, 0))
        self._sequence = sequence = (self._sequence + 1) & 0xFFFFFFFF
        sock.send(_HEADER.pack(_HEADER.size + len(question), kind, _NLM_F_REQUEST, sequence, 0) + question)
        for _ in range(_MOST_STALE):
            answer, (sender, _groups) = sock.recvfrom(_LARGEST_ANSWER)
            if len(answer) < _HEADER.size:
                break
            length, answered, _flags, number, _port = _HEADER.unpack_from(answer)
            # Any process may send to our port; only the kernel's is 0.
            if sender != 0 or number != sequence:
                continue
            if not _HEADER.size <= length <= len(answer):
                break
            if answered == _NLMSG_ERROR:
                code = -_ERROR.unpack_from(answer, _HEADER.size)[0]
                raise NetlinkError(code, os.strerror(code))
            return answer[_HEADER.size : length]
        raise OSError(errno.EBADMSG, "no answer among what came")
