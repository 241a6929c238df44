"""A TCP service that gives back what it gets, to more callers at once than would do with tasks or threads."""

import argparse
import select
import socket
import sys

_CHUNK = 1 << 16
_BACKLOG = 4096


class Echo:
    """Accepts and answers, one ready socket after the other; for callers that read their answers."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._callers: dict[int, socket.socket] = {}

    def serve(self) -> None:
        """Serve until the process ends."""
        while True:
            for descriptor, _events in self._epoll.poll():
                if descriptor == self._listener.fileno():
                    caller, _address = self._listener.accept()
                    self._callers[caller.fileno()] = caller
                    self._epoll.register(caller.fileno(), select.EPOLLIN)
                else:
                    self._answer(descriptor)

    def _answer(self, descriptor: int) -> None:
        caller = self._callers[descriptor]
        try:
            if data := caller.recv(_CHUNK):
                caller.sendall(data)
                return
        except ConnectionError as error:
            print(f"connection broken: {error}", flush=True)
        self._epoll.unregister(descriptor)
        self._callers.pop(descriptor).close()


def main() -> int:
    """Serve until ended."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--listen", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=0)
    given = arguments.parse_args()
    listener = socket.create_server((given.listen, given.port), backlog=_BACKLOG)
    print(f"serving on {listener.getsockname()[1]}", flush=True)
    Echo(listener).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
