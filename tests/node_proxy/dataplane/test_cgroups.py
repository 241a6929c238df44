import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_proxy.dataplane.cgroups import ABSENCE, WALK_CREDIT, Cgroups, cgroup_root
from node_proxy.snapshot import OwnerRule
from tests.support.owned import make_cgroup, remove_cgroup, slice_of_test

WEB = OwnerRule(unit="web.service")
BOOTED = """\
24 29 0:22 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID = """\
31 25 0:27 / /sys/fs/cgroup ro,nosuid shared:7 - tmpfs tmpfs ro,size=4096k,mode=755
32 31 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:8 - cgroup2 cgroup2 rw
33 31 0:29 / /sys/fs/cgroup/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,name=systemd
"""


class Clock:
    """Time that passes when told, and at each look if `step` is set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def place(root: Path, path: str) -> int:
    """Make a directory that stands for a cgroup; give its id."""
    (root / path.lstrip("/")).mkdir(parents=True)
    return (root / path.lstrip("/")).stat().st_ino


def test_where_cgroups_are() -> None:
    """cgroup2 is found at its own place on a booted host and beside the old hierarchies, or is not there."""
    assert cgroup_root(BOOTED) == Path("/sys/fs/cgroup")
    assert cgroup_root(HYBRID) == Path("/sys/fs/cgroup/unified")
    assert cgroup_root(HYBRID.splitlines()[0]) is None


def test_anywhere(tmp_path: Path, clock: Clock) -> None:
    """A cgroup is found wherever it is, and the root is one."""
    ids = {path: place(tmp_path, path) for path in ("/a.slice", "/b.slice/c.slice/x.service/sub", "/d.scope")}
    cgroups = Cgroups(clock, list, root=tmp_path)
    assert {path: cgroups.path(number) for path, number in ids.items()} == {path: path for path in ids}
    assert cgroups.path(tmp_path.stat().st_ino) == "/"


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (WEB, "/system.slice/web.service"),
        (WEB, "/system.slice/web.service/child"),
        (OwnerRule(unit="my-web@.service"), r"/system.slice/system-my\x2dweb.slice/my-web@1.service"),
        (OwnerRule(unit="web@1.service"), "/system.slice/system-web.slice/web@1.service"),
        (OwnerRule(cgroup="/shop.slice"), "/shop.slice/eu.slice/any.service"),
    ],
)
def test_where_it_is_expected(tmp_path: Path, clock: Clock, rule: OwnerRule, path: str) -> None:
    """A declared unit's new cgroup is found also when there is no time to look through all."""
    cgroups = Cgroups(clock, lambda: [rule], root=tmp_path)
    clock.step = 100.0
    assert cgroups.path(1) is None
    clock.step = 0.0
    elsewhere = place(tmp_path, "/elsewhere.slice/x.service")
    assert cgroups.path(elsewhere) is None
    assert cgroups.path(place(tmp_path, path)) == path


def test_walks_take_their_share(tmp_path: Path, clock: Clock) -> None:
    """Long walks are followed by long rests, after which the host is looked through again."""
    cgroups = Cgroups(clock, list, root=tmp_path)
    clock.step = 2 * WALK_CREDIT
    assert cgroups.path(1) is None
    clock.step = 0.0
    late = place(tmp_path, "/late.slice")
    assert cgroups.path(late) is None
    clock.now += 30 * WALK_CREDIT
    assert cgroups.path(late) == "/late.slice"


def test_absence_is_remembered_for_a_while(tmp_path: Path, clock: Clock) -> None:
    """An id that was not found is not sought at every call, but sought again later."""
    cgroups = Cgroups(clock, list, root=tmp_path)
    number = place(tmp_path, "/x.slice")
    os.rename(tmp_path / "x.slice", tmp_path.parent / "hidden")
    assert cgroups.path(number) is None
    os.rename(tmp_path.parent / "hidden", tmp_path / "x.slice")
    assert cgroups.path(number) is None
    clock.now += ABSENCE
    assert cgroups.path(number) == "/x.slice"


def test_what_is_gone_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    """A look through the host forgets the cgroups that are no more."""
    cgroups = Cgroups(clock, list, root=tmp_path)
    gone = place(tmp_path, "/gone.slice")
    assert cgroups.path(gone) == "/gone.slice"
    (tmp_path / "gone.slice").rmdir()
    assert cgroups.path(1) is None
    assert cgroups.path(gone) is None


def test_a_directory_nobody_may_read(tmp_path: Path, clock: Clock) -> None:
    """Where nothing can be read nothing is found, and nothing breaks."""
    cgroups = Cgroups(clock, lambda: [WEB], root=tmp_path / "none")
    assert cgroups.path(5) is None


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups")
class TestRealCgroups:
    @pytest.fixture
    def slice_(self) -> Iterator[str]:
        """A slice of this test."""
        with slice_of_test() as path:
            yield path

    def test_the_mounted_tree_is_found(self, slice_: str, clock: Clock) -> None:
        """Without a word about the root, the mounted cgroups are looked at, sub-cgroups included."""
        path = f"{slice_}/web.service/a/b"
        assert Cgroups(clock, list).path(make_cgroup(path)) == path

    def test_a_restarted_unit(self, slice_: str, clock: Clock) -> None:
        """A cgroup that is removed and made again has another id, which is found; the former is forgotten."""
        cgroups = Cgroups(clock, list)
        path = f"{slice_}/web.service"
        first = make_cgroup(path)
        assert cgroups.path(first) == path
        remove_cgroup(path)
        second = make_cgroup(path)
        assert first != second
        assert cgroups.path(second) == path
        assert cgroups.path(first) is None
