"""What importing the store costs."""

import subprocess
import sys

import pytest

HEAVY = {"grpc", "etcd3", "google.protobuf"}


@pytest.mark.parametrize("module", ["base", "keys", "config", "memory", "resume", "faults"])
def test_without_grpc(module: str) -> None:
    """Only the store over etcd loads grpc, which is too large for the workers."""
    program = f"import sys, registry.store.{module}; assert not {HEAVY} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_quiet() -> None:
    """Loading etcd3 with today's protobuf warns of nothing, even as an error."""
    subprocess.run([sys.executable, "-W", "error", "-c", "import registry.store.etcd"], check=True)
