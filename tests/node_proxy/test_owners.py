import pytest
from hypothesis import given
from hypothesis import strategies as st

from node_proxy.owners import (
    NoOwner,
    OwnerTable,
    Process,
    cgroup_fault,
    first_clash,
    template_of,
    unit_fault,
    unit_of,
)
from node_proxy.snapshot import OwnerRule
from tests.integration.snapshots import local, owned

WEB = "/system.slice/web.service"


def resolve(process: Process, **rules: OwnerRule) -> str:
    """Give the account of the workload that a process belongs to, or why it belongs to none."""
    table = OwnerTable(owned(name, rule) for name, rule in rules.items())
    found = table.resolve(process)
    return found.value if isinstance(found, NoOwner) else found.name.removeprefix("default/")


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        (WEB, "web.service"),
        ("/system.slice/system-web.slice/web@1.service", "web@1.service"),
        ("/shop.slice/shop-eu.slice/web.service", "web.service"),
        ("/machine.slice/libpod-0a1b.scope/container", "libpod-0a1b.scope"),
        ("/system.slice/docker-0a1b.scope", "docker-0a1b.scope"),
        ("/system.slice/_memory.service", "memory.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/", ""),
        ("/system.slice", ""),
        ("/docker/0a1b", ""),
        ("/.slice/web.service", "web.service"),
    ],
)
def test_unit_of_a_cgroup(cgroup: str, unit: str) -> None:
    """The unit is the first component of the path that is no slice."""
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("/system.slice/evil.service/web.service", "evil.service"),
        ("/system.slice/evil.service/system.slice/web.service", "evil.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", "user@1000.service"),
        ("/machine.slice/nspawn@a.service/payload/system.slice/web.service", "nspawn@a.service"),
        ("/docker/0a1b/system.slice/web.service", ""),
    ],
)  # fmt: skip
def test_a_unit_cannot_be_feigned(cgroup: str, unit: str) -> None:
    """What a unit, a user or a container names its own sub-cgroups makes it no other unit."""
    assert unit_of(cgroup) == unit


def test_template() -> None:
    """An instance has a template, another unit has none."""
    assert template_of("web@1.service") == "web@.service"
    assert template_of("web@a@b.service") == "web@.service"
    assert template_of("web.service") == ""


@pytest.mark.parametrize(
    ("process", "account"),
    [
        (Process(33, WEB), "unit_user"),
        (Process(34, WEB), "unit"),
        (Process(33, f"{WEB}/worker"), "unit_user"),
        (Process(34, "/system.slice/system-web.slice/web@1.service"), "instance"),
        (Process(34, "/system.slice/system-web.slice/web@2.service"), "template"),
        (Process(34, "/shop.slice/any.service"), "cgroup"),
        (Process(34, "/shop.slice/eu.slice/web.service"), "deeper"),
        (Process(33, "/shop.slice/any.service"), "cgroup_user"),
        (Process(33, "/system.slice/cron.service"), "user"),
        (Process(34, "/system.slice/cron.service"), "undeclared"),
        (Process(34, "/shop.slices/x.service"), "undeclared"),
    ],
)
def test_most_specific(process: Process, account: str) -> None:
    """Of the workloads that declare a process, the most specific is the one it belongs to."""
    assert account == resolve(
        process,
        user=OwnerRule(uid=33),
        unit=OwnerRule(unit="web.service"),
        unit_user=OwnerRule(unit="web.service", uid=33),
        template=OwnerRule(unit="web@.service"),
        instance=OwnerRule(unit="web@1.service"),
        cgroup=OwnerRule(cgroup="/shop.slice"),
        cgroup_user=OwnerRule(cgroup="/shop.slice", uid=33),
        deeper=OwnerRule(cgroup="/shop.slice/eu.slice"),
    )


@pytest.mark.parametrize(
    ("process", "account"),
    [
        (Process(None, WEB), "web"),
        (Process(33, None), "undetermined"),
        (Process(34, None), "undetermined"),
        (Process(), "undetermined"),
        (Process(None, "/system.slice/cron.service"), "undetermined"),
        (Process(34, "/system.slice/cron.service"), "undeclared"),
    ],
)
def test_what_is_not_known(process: Process, account: str) -> None:
    """A process of which too little is known belongs to whom it certainly does, else to nobody."""
    assert account == resolve(process, web=OwnerRule(unit="web.service"), batch=OwnerRule(uid=33))


def test_hiding_gives_nothing() -> None:
    """A process of a unit whose cgroup is not known is not taken for one of its user's others."""
    assert resolve(Process(33, None), unit=OwnerRule(unit="web.service", uid=33), user=OwnerRule(uid=33)) == (
        "undetermined"
    )
    assert resolve(Process(34, None), unit=OwnerRule(unit="web.service", uid=33), user=OwnerRule(uid=34)) == (
        "user"
    )


def test_reserved() -> None:
    """An identity whose workload declares its processes is for those alone."""
    table = OwnerTable([owned("web", OwnerRule(uid=33)), local("api")])
    assert table.reserved(local("web").identity)
    assert not table.reserved(local("api").identity)
    assert not OwnerTable([local("api")])


UNITS = st.sampled_from([None, "a.service", "a@.service", "a@1.service"])
UIDS = st.sampled_from([None, 1, 2])
CGROUPS = st.sampled_from(["/s.slice", "/s.slice/a.service", "/s.slice/a@1.service/x", "/t.slice"])
RULES = st.one_of(
    st.builds(OwnerRule, unit=UNITS, uid=UIDS), st.builds(OwnerRule, cgroup=CGROUPS, uid=UIDS)
).filter(lambda rule: rule != OwnerRule())
PROCESSES = st.builds(
    Process,
    uid=UIDS,
    cgroup=st.sampled_from([None, "/s.slice/a.service", "/s.slice/a@1.service/x", "/t.slice/a@2.service"]),
)


@given(st.lists(RULES, unique=True, max_size=6), PROCESSES)
def test_order_does_not_matter(rules: list[OwnerRule], process: Process) -> None:
    """Where no two declare the same, the answer does not depend on the order of declaration."""
    named = {f"w{rules.index(rule)}": rule for rule in rules}
    assert first_clash(named) is None
    assert resolve(process, **named) == resolve(process, **dict(reversed(named.items())))


@given(st.lists(RULES, unique=True, max_size=6), PROCESSES)
def test_knowing_less_never_gives_another(rules: list[OwnerRule], process: Process) -> None:
    """Of whom less is known, the same is said, or that nothing can be said."""
    named = {f"w{number}": rule for number, rule in enumerate(rules)}
    for less in (Process(process.uid, None), Process(None, process.cgroup), Process()):
        assert resolve(less, **named) in (resolve(process, **named), "undetermined")


def test_clash() -> None:
    """Two that declare the same processes are found."""
    rule = OwnerRule(unit="web.service", uid=33)
    clash = first_clash(
        {"a": rule, "b": OwnerRule(unit="web.service"), "c": OwnerRule(unit="web.service", uid=33)}
    )
    assert clash == ("a", "c")


@pytest.mark.parametrize(
    ("unit", "mend"),
    [
        ("web.service", ""),
        ("web@.service", ""),
        (r"my\x2dweb@1:2.service", ""),
        ("session-1.scope", ""),
        ("web", "write web.service"),
        ("web@1", "write web@1.service"),
        ("web.socket", "write the service that it starts, web.service"),
        ("shop.slice", 'write cgroup = "/shop.slice"'),
        ("web.timer", "write what `systemctl status PID` shows"),
        ("we b.service", "write what `systemctl status PID` shows"),
        ("system.slice/web.service", "write the unit's name alone"),
        ("a" * 250 + ".service", "is no service or scope"),
        ("", "is no service or scope"),
    ],
)
def test_unit_faults(unit: str, mend: str) -> None:
    """A unit that can be none is answered with what to write."""
    fault = unit_fault(unit)
    assert mend in fault
    assert bool(fault) == bool(mend)


@pytest.mark.parametrize(
    ("cgroup", "mend"),
    [
        ("/system.slice/web.service", ""),
        ("system.slice", "write /system.slice"),
        ("/", "write a cgroup below it"),
        ("/a.slice/", "write /a.slice"),
        ("/a//b", "in /proc/PID/cgroup"),
        ("/a/../b", "in /proc/PID/cgroup"),
        ("/sys/fs/cgroup/system.slice", "in /proc/PID/cgroup"),
    ],
)
def test_cgroup_faults(cgroup: str, mend: str) -> None:
    """A cgroup that is no plain path is answered with what to write."""
    fault = cgroup_fault(cgroup)
    assert mend in fault
    assert bool(fault) == bool(mend)
