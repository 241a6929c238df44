"""Envoy to Envoy: the configurations which the interoperability tests use are right by themselves."""

from pathlib import Path

import pytest

from tests.integration.certificates import Authority, spiffe
from tests.integration.envoy import hbone_client, hbone_server, run_envoy
from tests.integration.workloads import (
    blocks,
    call,
    digest,
    digest_of_blocks,
    is_closed,
    read_to_end,
    run_workload,
)

WEB = spiffe("web")
API = spiffe("api")
AUTHORITY = "127.0.0.2:8080"
LENGTH = 4 << 20


@pytest.mark.parametrize(("caller", "accepted"), [("web", True), ("other", False)])
def test_envoy_speaks_hbone_to_envoy(
    authority: Authority, tmp_path: Path, caller: str, accepted: bool
) -> None:
    """Envoy carries a digested upload to Envoy, and refuses a caller of another identity."""
    log = tmp_path / "access.log"
    with run_workload(digest) as workload:
        server_config = hbone_server(
            leaf=authority.issue(API),
            roots_pem=authority.root_pem,
            address="127.0.0.2",
            authority=AUTHORITY,
            workload=("127.0.0.1", workload.port),
            expected=WEB,
            access_log=log,
        )
        with run_envoy(server_config, tmp_path / "server") as server:
            client_config = hbone_client(
                leaf=authority.issue(spiffe(caller)),
                roots_pem=authority.root_pem,
                tunnel=("127.0.0.2", server.port),
                authority=AUTHORITY,
                expected=API,
            )
            with run_envoy(client_config, tmp_path / "client") as client, call(client.port) as connection:
                if not accepted:
                    assert is_closed(connection)
                    server.wait_stat(r"listener\..*\.ssl\.fail_verify_san", 1)
                    assert workload.accepted == 0
                    return
                for block in blocks(LENGTH):
                    connection.sendall(block)
                connection.shutdown(1)
                assert read_to_end(connection).decode() == digest_of_blocks(LENGTH)
                assert f"{WEB} TLSv1.3 CONNECT {AUTHORITY}" in log.read_text()
