"""A worker that moves no bytes: speaks `node_proxy.control` as the real one does, and does as it is told.

Run as ``python -m tests.fakes.worker [--mode MODE] --control-fd N``. Modes: ``good``; ``crash`` (dies at
once); ``slow`` (never reads its control socket); ``stubborn`` (hears neither Drain nor SIGTERM);
``nonsense`` (breaks the protocol); ``deciding`` (tells of a denial with every answer); ``asked`` (tells of a
request under a shared limit with every answer). As samples it reports what it was given, so that a test can
ask.
"""

import argparse
import os
import signal
import socket
import sys
import time

from node_proxy.control import (
    CredentialsUpdate,
    Decided,
    Decisions,
    Demand,
    Drain,
    MessageReader,
    Quotas,
    Ready,
    Report,
    Sample,
    SnapshotUpdate,
    ToWorker,
    WorkerConfig,
    encode,
)
from registry.model.decision import Outcome

DENIAL = Decided(
    outcome=Outcome.DENIED,
    reason="denied",
    policy="default/no-web",
    source="spiffe://nodemesh.local/ns/default/sa/web",
    source_ip="10.77.0.2",
    remote_ip="",
    destination_ip="",
    sni="",
    destination="default/api",
    port=8080,
    count=1,
    first_ago=0.5,
    last_ago=0.5,
    ids=("0a1b2c3d-0",),
)


class FakeWorker:
    """Answers every message on `control`."""

    def __init__(self, control: socket.socket, mode: str) -> None:
        self._control = control
        self._mode = mode
        self._listening = 0
        self._snapshots = 0
        self._credentials: CredentialsUpdate | None = None
        self._revision: int | None = None
        self._shared = 0.0
        self._shared_at = -1

    def serve(self) -> None:
        """Answer until told to drain or the agent is gone."""
        reader: MessageReader[ToWorker] = MessageReader(ToWorker)  # type: ignore[arg-type]
        while data := self._control.recv(1 << 16):
            for message in reader.feed(data):
                if not self._take(message):
                    return

    def _take(self, message: ToWorker) -> bool:
        match message:
            case WorkerConfig(tunnel_fds=tunnel_fds, listeners=listeners):
                # Fails here if a descriptor was not inherited.
                for fd in (*tunnel_fds, *(listener.fd for listener in listeners)):
                    with socket.socket(fileno=os.dup(fd)) as inherited:
                        self._listening += inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            case CredentialsUpdate():
                self._credentials = message
            case SnapshotUpdate(snapshot=snapshot):
                self._snapshots += 1
                self._revision = snapshot.revision
            case Quotas(shares=shares):
                # Before the snapshot that they are for.
                self._shared, self._shared_at = sum(shares.values()), self._snapshots
            case Drain():
                return self._mode == "stubborn"
        if self._credentials is not None and self._revision is not None:
            self._control.sendall(
                encode(Ready(revision=self._revision, generation=self._credentials.generation))
                + encode(self._report())
            )
            if self._mode == "deciding":
                self._control.sendall(encode(Decisions(decided=(DENIAL,))))
            if self._mode == "asked":
                self._control.sendall(encode(Demand(counts={"default/api/all#0": 1})))
        return True

    def _report(self) -> Report:
        credentials = len(self._credentials.credentials) if self._credentials else 0
        numbers = {
            "fake_listening": self._listening,
            "fake_snapshots_total": self._snapshots,
            "fake_credentials": credentials,
            "fake_shared": self._shared,
            "fake_shared_at": self._shared_at,
        }
        return Report(
            samples=tuple(Sample(name=name, labels=(), value=value) for name, value in numbers.items())
        )


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--mode", default="good")
    options = parser.parse_args()
    control = socket.socket(fileno=options.control_fd)
    match options.mode:
        case "crash":
            sys.exit(3)
        case "slow":
            time.sleep(3600)
        case "nonsense":
            control.sendall(b"\0\0\0\1\xff")
            time.sleep(3600)
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    FakeWorker(control, options.mode).serve()


if __name__ == "__main__":
    main()
