import random
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from trio.testing import MockClock

from node_proxy.agent.credentials import new_key
from node_proxy.agent.etcd_certificate import (
    EtcdCertificateFile,
    EtcdCertificateKeeper,
    EtcdCredential,
    hold_for_etcd,
    is_wanted,
)
from node_proxy.config import EtcdSection
from node_proxy.errors import EnrolmentError
from registry.ca.issuer import issue_etcd_client, to_pem
from registry.store.config import EtcdConfig
from tests.fakes.signers import NOON, MeshKeys

KEYS = MeshKeys()
CONFIG = EtcdConfig(endpoints=("etcd:2379",), ca=Path("/ca.pem"))


def credential(now: datetime = NOON) -> EtcdCredential:
    key = new_key()
    certificate = issue_etcd_client(
        KEYS.issuing, key.public_key(), "node:web-1", serial=x509.random_serial_number(), now=now
    )
    return hold_for_etcd(to_pem(certificate), key)


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        (EtcdSection(ca="ca.pem"), True),
        (EtcdSection(), False),
        (EtcdSection(ca="ca.pem", cert="c.pem", key="k.pem"), False),
        (EtcdSection(ca="ca.pem", user="u", password_file="p"), False),
    ],
)
def test_wanted(section: EtcdSection, wanted: bool) -> None:
    """It is used by itself where etcd is spoken to by TLS and the operator says nothing else."""
    assert is_wanted(section) is wanted


def test_kept(tmp_path: Path) -> None:
    """What is saved is read again, and is what the store is configured with."""
    file, held = EtcdCertificateFile(tmp_path), credential()
    assert (file.load(), file.configured(CONFIG)) == (None, CONFIG)
    file.save(held)
    assert file.load() == held
    assert (file.configured(CONFIG).cert, file.configured(CONFIG).key) == (file.path, file.path)
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA"])
def test_damaged(tmp_path: Path, content: str) -> None:
    """A file that is of no use is as none."""
    file = EtcdCertificateFile(tmp_path)
    file.save(credential())
    file.path.write_text(content)
    assert (file.load(), file.configured(CONFIG)) == (None, CONFIG)


def test_for_another_key() -> None:
    """A certificate for another key than the one asked for is refused."""
    with pytest.raises(EnrolmentError, match="another key"):
        hold_for_etcd(credential().chain_pem, new_key())
    with pytest.raises(EnrolmentError, match="it is none"):
        hold_for_etcd("hello", new_key())


class Keeping:
    """A keeper without threads or sockets, whose wall clock is trio's."""

    def __init__(self, folder: Path) -> None:
        self.file = EtcdCertificateFile(folder)
        self.begun = trio.current_time()
        self.connected = trio.Event()
        self.refusals = 0
        self.keeper = EtcdCertificateKeeper(
            self.file,
            obtain=self.obtain,
            connect=self.connect,
            now=self.now,
            rng=random.Random(1),  # noqa: S311
        )

    def now(self) -> datetime:
        """Read the wall clock."""
        return NOON + timedelta(seconds=trio.current_time() - self.begun)

    async def obtain(self) -> EtcdCredential:
        """Give another, after as many refusals as were set."""
        await trio.lowlevel.checkpoint()
        if self.refusals:
            self.refusals -= 1
            raise EnrolmentError("not now")
        return credential(self.now())

    async def connect(self) -> None:
        """Note that it was asked for."""
        await trio.lowlevel.checkpoint()
        self.connected.set()


async def test_fetched_when_missing(tmp_path: Path) -> None:
    """A node that has none asks for one at once, however often that is refused, and connects with it."""
    keeping = Keeping(tmp_path)
    keeping.refusals = 1
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeping.keeper.keep_fresh)
            await keeping.connected.wait()
            nursery.cancel_scope.cancel()
    assert keeping.file.load() is not None


async def test_renewal_is_tried_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A renewal that fails is tried again until it is given."""
    keeping = Keeping(tmp_path)
    keeping.refusals = 5
    held = await keeping.keeper._renew()
    assert (held.not_after - keeping.now()) / timedelta(hours=1) > 23


async def test_waits_for_half_life(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A renewal is due at half of the certificate's life."""
    keeping = Keeping(tmp_path)
    await keeping.keeper._wait_until(NOON + timedelta(hours=12))
    assert trio.current_time() - keeping.begun == pytest.approx(12 * 3600, abs=30)
