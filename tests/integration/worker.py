"""Runs the worker process as the agent does, over a socketpair, without agent, registry or etcd."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from node_proxy.control import (
    Credential,
    CredentialsUpdate,
    Decided,
    Decisions,
    Demand,
    Drain,
    ExplicitListener,
    FromWorker,
    MessageReader,
    Quotas,
    Ready,
    Report,
    SnapshotUpdate,
    ToWorker,
    WorkerConfig,
    encode,
)
from node_proxy.snapshot import Snapshot
from registry.model.enrolment import FederatedDomain, Revocation
from tests.integration.certificates import TRUST_DOMAIN, Leaf

# A log line of the worker: event, level and whatever else that event tells.
LogLine = dict[str, Any]

PATIENCE = 15.0
REPOSITORY = Path(__file__).parents[2]
KIBIBYTE = 1024


class Worker:
    """A worker process on loopback; `address` is its node's, the tunnel listens there.

    The sockets listen from construction on, so that snapshots can name their ports before `start`.
    """

    def __init__(self, node: str, address: str, *, calls: Sequence[tuple[str, int, str]] = ()) -> None:
        """Bind the tunnel and a listener for each of `calls` (service, port, identity to speak for)."""
        self.node = node
        self.address = address
        self.logs: list[LogLine] = []
        self.reports: list[Report] = []
        self.decided: list[Decided] = []
        self.demanded: Counter[str] = Counter()
        self.revision = -1
        self.generation = self._generation = 0
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._tunnel = socket.create_server((address, 0), family=family, backlog=1024)
        self._listeners = [
            (socket.create_server(("127.0.0.1", 0), backlog=1024), service, port, workload)
            for service, port, workload in calls
        ]
        self.tunnel_port: int = self._tunnel.getsockname()[1]
        self.ports: dict[str, int] = {
            f"{service}:{port}": listener.getsockname()[1] for listener, service, port, _ in self._listeners
        }
        # By service, port and identity, where several callers lead to the same.
        self.entries: dict[tuple[str, int, str], int] = {
            (service, port, workload): listener.getsockname()[1]
            for listener, service, port, workload in self._listeners
        }
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []

    def start(self, snapshot: Snapshot, leaves: Sequence[Leaf], roots_pem: str) -> None:
        """Spawn the process, give it all its state and wait until it is ready."""
        self._control, theirs = socket.socketpair()
        listening = [self._tunnel, *(listener for listener, _, _, _ in self._listeners)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node_proxy.dataplane", "--control-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *(each.fileno() for each in listening)],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=REPOSITORY,
            )
        for target in (self._read_logs, self._read_messages):
            thread = threading.Thread(target=target, daemon=True)
            thread.start()
            self._threads.append(thread)
        self._send(
            WorkerConfig(
                node=self.node,
                trust_domain=TRUST_DOMAIN,
                tunnel_fds=(self._tunnel.fileno(),),
                captured_fds=(),
                listeners=tuple(
                    ExplicitListener(fd=listener.fileno(), service=service, port=port, workload=workload)
                    for listener, service, port, workload in self._listeners
                ),
                default_workload=None,
                mark=0,
                log_level="debug",
            )
        )
        self._send_credentials(leaves, roots_pem)
        self.give_snapshot(snapshot)
        for each in listening:
            # A copy kept here would go on listening after the worker has closed its own.
            each.close()

    def give_snapshot(self, snapshot: Snapshot) -> None:
        """Send a snapshot and wait until it is in force."""
        self._send(SnapshotUpdate(snapshot=snapshot))
        self._wait(lambda: self.revision >= snapshot.revision, f"revision {snapshot.revision}")

    def give_credentials(
        self,
        leaves: Sequence[Leaf],
        roots_pem: str,
        *,
        revocations: tuple[Revocation, ...] = (),
        federated: tuple[FederatedDomain, ...] = (),
    ) -> None:
        """Send certificates and whom to trust; wait until they are used. The first leaf is the default."""
        self._send_credentials(leaves, roots_pem, revocations=revocations, federated=federated)
        self._wait(lambda: self.generation == self._generation, f"credentials {self._generation}")

    def _send_credentials(
        self,
        leaves: Sequence[Leaf],
        roots_pem: str,
        *,
        revocations: tuple[Revocation, ...] = (),
        federated: tuple[FederatedDomain, ...] = (),
    ) -> None:
        credentials: tuple[Credential, ...] = tuple(leaf.credential() for leaf in leaves)
        self._generation += 1
        self._send(
            CredentialsUpdate(
                credentials=credentials,
                default_identity=credentials[0].identity,
                roots_pem=roots_pem,
                revocations=revocations,
                federated=federated,
                generation=self._generation,
            )
        )

    def give_quotas(self, shares: dict[str, float]) -> None:
        """Send this node's shares of limits; what is sent after them finds them in force."""
        self._send(Quotas(shares=shares))

    def wait_demand(self, name: str, count: int) -> None:
        """Wait until the worker has told that it was asked so often under a shared count."""
        self._wait(lambda: self.demanded[name] >= count, f"a demand of {count} for {name}")

    def drain(self, deadline: float) -> None:
        """Tell it to finish what is open and exit."""
        self._send(Drain(deadline=deadline))

    def close_control(self) -> None:
        """Close our end of the control socket, as a dying agent does."""
        self._control.shutdown(socket.SHUT_RDWR)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds: float = PATIENCE) -> int:
        """Wait for the process to end by itself; give its exit status."""
        return self.process.wait(seconds)

    def wait_log(self, event: str, *, since: int = 0, **fields: Any) -> LogLine:
        """Wait for a log line of `event` with these fields; `since` is a length of `logs` to look after."""

        def found() -> LogLine | None:
            for line in self.logs[since:]:
                if line.get("event") == event and fields.items() <= line.items():
                    return line
            return None

        self._wait(lambda: found() is not None, f"{event!r} with {fields}")
        line = found()
        assert line is not None
        return line

    def wait_report(self) -> Report:
        """Wait for the next report of counters."""
        seen = len(self.reports)
        self._wait(lambda: len(self.reports) > seen, "a report")
        return self.reports[-1]

    def wait_decided(self, decision: str) -> Decided:
        """Wait until the worker has told of a decision."""

        def found() -> Decided | None:
            return next((each for each in self.decided if decision in each.ids), None)

        self._wait(lambda: found() is not None, f"decision {decision}")
        told = found()
        assert told is not None
        return told

    def memory(self) -> int:
        """Give the resident memory of the process in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * KIBIBYTE
        raise AssertionError("the worker is gone")

    def stop(self) -> None:
        """End the process if it still runs and release everything."""
        self._tunnel.close()
        for listener, _, _, _ in self._listeners:
            listener.close()
        if not hasattr(self, "process"):
            return
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._control.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._control.close()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def complaints(self) -> list[LogLine]:
        """Give what only a bug would log: errors, tracebacks, lines that are not JSON."""
        return [
            line for line in self.logs if line.get("level") in ("error", "critical") or "exception" in line
        ]

    def _send(self, message: ToWorker) -> None:
        self._control.sendall(encode(message))

    def _read_logs(self) -> None:
        assert self.process.stderr is not None
        for text in self.process.stderr:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                line = {"event": text.decode().rstrip(), "level": "error"}
            with self._news:
                self.logs.append(line)
                self._news.notify_all()

    def _read_messages(self) -> None:
        reader: MessageReader[FromWorker] = MessageReader(FromWorker)  # type: ignore[arg-type]
        while data := self._receive():
            with self._news:
                for message in reader.feed(data):
                    match message:
                        case Ready(revision=revision, generation=generation):
                            self.revision, self.generation = revision, generation
                        case Report():
                            self.reports.append(message)
                        case Decisions(decided=decided):
                            self.decided.extend(decided)
                        case Demand(counts=counts):
                            self.demanded.update(counts)
                self._news.notify_all()

    def _receive(self) -> bytes:
        try:
            return self._control.recv(1 << 16)
        except ConnectionError:
            return b""

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        with self._news:
            while not condition():
                # A short wait too, since the death of the process notifies nobody.
                self._news.wait(0.2)
                if time.monotonic() > deadline or (self.process.poll() is not None and not condition()):
                    lines = "\n".join(str(line) for line in self.logs[-40:])
                    raise AssertionError(f"{self.node} did not tell {what}; its last log lines:\n{lines}")


@contextmanager
def stopping(*workers: Worker) -> Iterator[None]:
    """Stop the workers on the way out, and fail if one of them logged what only a bug would."""
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
    for worker in workers:
        complaints = "\n".join(str(line.get("exception", line["event"])) for line in worker.complaints())
        assert not complaints, f"{worker.node} logged what only a bug would:\n{complaints}"
