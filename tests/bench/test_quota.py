from pathlib import Path

from tests.bench.quota import Hierarchy, find_hierarchy

SEVERAL = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
"""


def test_version_one_where_cpu_is_mounted() -> None:
    """Among the hierarchies of version 1 the one with the CPU controller is taken, whatever its name."""
    assert find_hierarchy(SEVERAL) == Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), unified=False)


def test_version_two_where_it_has_cpu(tmp_path: Path) -> None:
    """Version 2 is taken when the CPU controller is in it, and passed over when it is elsewhere."""
    controllers = tmp_path / "cgroup.controllers"
    mounts = f"cgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n"
    controllers.write_text("cpuset cpu io\n")
    assert find_hierarchy(mounts + SEVERAL) == Hierarchy(tmp_path, unified=True)
    controllers.write_text("hugetlb\n")
    assert find_hierarchy(mounts + SEVERAL) == Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), unified=False)
    assert find_hierarchy(mounts) is None
