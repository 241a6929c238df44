import socket
import subprocess
import sys

from node_proxy.control import CredentialsUpdate, Drain, SnapshotUpdate, ToWorker, WorkerConfig, encode
from tests.integration.certificates import TRUST_DOMAIN, Authority
from tests.integration.pair import WEB
from tests.integration.snapshots import snapshot
from tests.integration.worker import PATIENCE, REPOSITORY, Worker, stopping


def test_told_to_stop_while_it_starts(authority: Authority) -> None:
    """A worker that finds Drain beside its first state exits in order, without a traceback."""
    leaf = authority.issue(WEB).credential()
    near = Worker("near", "127.0.0.1")
    with stopping(near):
        state = snapshot(near)
    messages: list[ToWorker] = [
        WorkerConfig(
            node="near",
            trust_domain=TRUST_DOMAIN,
            tunnel_fds=(),
            captured_fds=(),
            listeners=(),
            default_workload=None,
            mark=0,
            log_level="info",
        ),
        CredentialsUpdate(credentials=(leaf,), default_identity=WEB, roots_pem=authority.root_pem),
        SnapshotUpdate(snapshot=state),
        Drain(deadline=5.0),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"".join(encode(message) for message in messages))
        done = subprocess.run(
            [sys.executable, "-m", "node_proxy.dataplane", "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "worker stopped" in done.stderr
