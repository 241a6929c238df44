"""Asks for a URL over and over at a steady rate; one JSON line for each answer.

``{"at": seconds of the monotonic clock, "ms": …, "status": 200, "by": ["api@app-1"], "error": ""}``. Half
of the askers keep their connection, half make a new one each time. Ends when told to, or after ``--seconds``.
"""

import argparse
import http.client
import json
import signal
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT = 5.0


class _Load:
    def __init__(self, url: str, *, askers: int, rate: float) -> None:
        self._url = urlsplit(url)
        self._askers = askers
        self._pause = askers / rate
        self._print = threading.Lock()
        self.stopped = threading.Event()

    def ask_for(self, number: int) -> None:
        """Be one asker until stopped."""
        keep = number % 2 == 0
        connection: http.client.HTTPConnection | None = None
        due = time.monotonic() + self._pause * number / self._askers
        while not self.stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic() - self._pause)
            if connection is None:
                connection = http.client.HTTPConnection(
                    self._url.hostname or "", self._url.port or 80, timeout=_TIMEOUT
                )
            record = self._ask(connection)
            if record["error"] or not keep:
                connection.close()
                connection = None
            with self._print:
                print(json.dumps(record), flush=True)
        if connection is not None:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> dict[str, Any]:
        began = time.monotonic()
        record: dict[str, Any] = {"status": 0, "by": [], "error": ""}
        try:
            connection.request("GET", self._url.path or "/")
            response = connection.getresponse()
            body = json.loads(response.read())
            record |= {"status": response.status, "by": body["answered"], "error": body.get("error", "")}
        except (OSError, http.client.HTTPException, ValueError) as error:
            record["error"] = f"{type(error).__name__}: {error}"
        ended = time.monotonic()
        return record | {"at": ended, "began": began, "ms": round((ended - began) * 1000, 2)}


def main() -> int:
    """Ask until SIGTERM or the time is up."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("url")
    arguments.add_argument("--rate", type=float, default=50.0, help="requests a second, all askers together")
    arguments.add_argument("--askers", type=int, default=4)
    arguments.add_argument("--seconds", type=float, default=120.0)
    given = arguments.parse_args()
    load = _Load(given.url, askers=given.askers, rate=given.rate)
    # Blocked before the threads start, so that none of them takes it; the main thread asks for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threads = [threading.Thread(target=load.ask_for, args=(number,)) for number in range(given.askers)]
    for thread in threads:
        thread.start()
    signal.sigtimedwait({signal.SIGTERM}, given.seconds)
    load.stopped.set()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
