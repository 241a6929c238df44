"""A small HTTP service that counts what it is asked in a file that outlives it, so that it may be killed.

``{"answered": ["api-1"], "attempt": 1}`` is what it answers. The file holds two numbers of 64 bits: requests
that were read whole, and answers that were sent; what is between them was under way.
"""

import argparse
import json
import mmap
import socket
import struct
import sys
import threading
import time
from pathlib import Path

TALLY = struct.Struct("<QQ")


class _Service:
    def __init__(self, name: str, tally: mmap.mmap, *, delay: float, status: int) -> None:
        self._name = name
        self._tally = tally
        self._delay = delay
        self._status = status
        self._lock = threading.Lock()

    def serve(self, connection: socket.socket) -> None:
        """Answer the requests of one connection, one after the other."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = connection.makefile("rb")
        try:
            while reader.readline():
                fields: dict[bytes, bytes] = {}
                while (line := reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    fields[name.lower()] = value.strip()
                reader.read(int(fields.get(b"content-length", 0)))
                self._count(1, 0)
                time.sleep(self._delay)
                attempt = int(fields.get(b"nodemesh-attempt", 1))
                body = json.dumps({"answered": [self._name], "attempt": attempt}).encode()
                head = f"HTTP/1.1 {self._status} Said\r\ncontent-length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)
                self._count(0, 1)
        except OSError:
            # The proxy is gone, or has given the request up.
            return
        finally:
            connection.close()

    def _count(self, asked: int, answered: int) -> None:
        with self._lock:
            before = TALLY.unpack_from(self._tally)
            TALLY.pack_into(self._tally, 0, before[0] + asked, before[1] + answered)


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--name", required=True)
    arguments.add_argument("--tally", type=Path, required=True)
    arguments.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    arguments.add_argument("--status", type=int, default=200)
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    with given.tally.open("r+b") as file:
        tally = mmap.mmap(file.fileno(), TALLY.size)
    service = _Service(given.name, tally, delay=given.delay, status=given.status)
    listener = socket.create_server(("127.0.0.1", given.port), backlog=1024)
    print(f"serving {listener.getsockname()[1]}", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=service.serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
