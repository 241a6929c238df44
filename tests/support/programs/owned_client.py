"""A caller of some user in some cgroup: reads what to do as lines of JSON, answers each with one.

``["connect", address, port, source?, port?]`` (answers its own address), ``["connect_unix", path]``,
``["send", text]``, ``["receive"]``,
``["half_close"]``, ``["close"]``, ``["reset"]``, ``["listen", address, port]``, ``["move", cgroup.procs]``,
``["fork"]`` (a child takes over and does what is told from then on).
"""

import argparse
import json
import os
import socket
import struct
import sys
from pathlib import Path


class Client:
    """One connection, and at most one listener."""

    def __init__(self) -> None:
        self._sock: socket.socket | None = None
        self._listener: socket.socket | None = None

    def do(self, what: str, arguments: list[str | int]) -> object:
        """Do one thing; gives what to answer."""
        match what, arguments:
            case "connect", [str(address), int(port), *source]:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                self._sock = socket.socket(family)
                self._sock.settimeout(5)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if source:
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    self._sock.bind((str(source[0]), int(source[1])))
                self._sock.connect((address, port))
                return self._sock.getsockname()[:2]
            case "connect_unix", [str(path)]:
                self._sock = socket.socket(socket.AF_UNIX)
                self._sock.settimeout(5)
                self._sock.connect(path)
                return True
            case "listen", [str(address), int(port)]:
                self._listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                self._listener.bind((address, port))
                self._listener.listen()
                return self._listener.getsockname()[:2]
            case "move", [str(place)]:
                Path(place).write_text(str(os.getpid()))
                return True
            case "fork", []:
                if child := os.fork():
                    os.waitpid(child, 0)
                    sys.exit(0)
                return os.getpid()
            case _:
                return self._with_connection(what, arguments)

    def _with_connection(self, what: str, arguments: list[str | int]) -> object:
        assert self._sock is not None, "connect first"
        match what, arguments:
            case "send", [str(text)]:
                self._sock.sendall(text.encode())
            case "receive", []:
                return self._sock.recv(4096).decode()
            case "half_close", []:
                self._sock.shutdown(socket.SHUT_WR)
            case "reset", []:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._sock.close()
            case "close", []:
                self._sock.close()
            case _:
                raise ValueError(f"cannot do {what} {arguments}")
        return True


def main() -> None:
    """Take the place and the user given, then do as told until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int, default=0)
    parser.add_argument("--cgroup", default="")
    given = parser.parse_args()
    if given.cgroup:
        Path(given.cgroup).write_text(str(os.getpid()))
    if given.uid:
        os.setgroups([])
        os.setgid(given.uid)
        os.setuid(given.uid)
    client = Client()
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            answer: object = client.do(what, arguments)
        except OSError as error:
            answer = {"errno": error.errno, "error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
