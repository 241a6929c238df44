import pytest

from node_proxy.agent.capture.describe import describe
from node_proxy.agent.capture.plan import plan
from node_proxy.errors import ConfigError
from tests.node_proxy.agent.capture.scenes import API4, API6, V4, V6, planned, rules, view


def test_ruleset() -> None:
    """One transaction replaces the table; what is never taken comes before what is."""
    wanted = planned(exempt_ports=(15008,), control=(("10.0.0.9", 2379), ("fd77::9", 15010)))
    assert wanted.ruleset({}) == (
        "add table inet nodemesh\n"
        "delete table inet nodemesh\n"
        "table inet nodemesh {\n"
        "  set vips4 { type ipv4_addr; }\n"
        "  set vips6 { type ipv6_addr; }\n"
        "  set endpoints4 { type ipv4_addr . inet_service; }\n"
        "  set endpoints6 { type ipv6_addr . inet_service; }\n"
        "  chain caught {\n"
        "    ip daddr @vips4 meta l4proto tcp redirect to :15001\n"
        "    ip6 daddr @vips6 meta l4proto tcp redirect to :15001\n"
        "    ip daddr . tcp dport @endpoints4 redirect to :15001\n"
        "    ip6 daddr . tcp dport @endpoints6 redirect to :15001\n"
        "  }\n"
        "  chain outbound {\n"
        "    type nat hook output priority -105; policy accept;\n"
        "    meta l4proto != tcp return\n"
        "    meta mark 0x539 return\n"
        "    ip daddr 127.0.0.0/8 return\n"
        "    ip6 daddr ::1 return\n"
        "    tcp dport { 22, 15008 } return\n"
        "    ip daddr . tcp dport { 10.0.0.9 . 2379 } return\n"
        "    ip6 daddr . tcp dport { fd77::9 . 15010 } return\n"
        "    goto caught\n"
        "  }\n"
        "  chain refuse {\n"
        "    type filter hook output priority 0; policy accept;\n"
        "    ip daddr 240.240.0.0/16 meta l4proto tcp reject with tcp reset\n"
        "    ip6 daddr fd6d:6573:6800::/64 meta l4proto tcp reject with tcp reset\n"
        "  }\n"
        "}\n"
        "add element inet nodemesh vips4 { 240.240.0.0, 240.240.0.7 }\n"
        "add element inet nodemesh vips6 { fd6d:6573:6800::, fd6d:6573:6800::7 }\n"
    )
    assert wanted.routes == (V4, V6)


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        (("0.0.0.0/0",), "too wide"),
        (("::/0",), "too wide"),
        (("240.240.0.1/16",), "has host bits set"),
        (("a; flush ruleset",), "write 240.240.0.0/16"),
        (("10.0.0.0/8",), "contains the real 10.77.0.1"),
        (("fd77::/64",), "contains the real fd77::9"),
    ],
)
def test_ranges_that_would_hurt(ranges: tuple[str, ...], complaint: str) -> None:
    """A range that is none, takes in everything or a real address of the mesh is refused."""
    settings = rules(own_addresses=("10.77.0.1",), control=(("fd77::9", 2379),))
    with pytest.raises(ConfigError, match=complaint):
        plan(settings, view(vip_ranges=ranges))


def test_addresses_that_are_not_virtual() -> None:
    """What the mesh calls a virtual IP and is none is left alone, and said."""
    wanted = plan(rules(), view(vips={"default/api": (API4, "8.8.8.8", "nonsense; flush ruleset")}))
    assert wanted.elements["vips4"] == {API4, "240.240.0.0"}
    assert [note.split(" is ")[0] for note in wanted.notes] == [
        "default/api: 8.8.8.8",
        "default/api: nonsense; flush ruleset",
    ]


def test_chosen_services() -> None:
    """Only the services of the list are taken; one that the mesh does not have is said."""
    mesh = view(vips={"default/api": (API4,), "default/db": ("240.240.0.8",)})
    wanted = plan(rules(services=("default/db", "shop/cart")), mesh)
    assert wanted.elements["vips4"] == {"240.240.0.0", "240.240.0.8"}
    assert wanted.notes == ("the mesh has no such service yet: shop/cart",)


def test_endpoints() -> None:
    """Known endpoints are taken when asked for, but for this node's own and loopback's."""
    mesh = view(
        endpoints={
            "default/api": (("10.77.0.1", 8080), ("10.77.0.2", 8080), ("127.0.0.1", 8080), ("fd77::2", 8080))
        }
    )
    assert plan(rules(), mesh).elements["endpoints4"] == frozenset()
    wanted = plan(rules(endpoints=True, own_addresses=("10.77.0.1",)), mesh)
    assert wanted.elements["endpoints4"] == {"10.77.0.2 . 8080"}
    assert wanted.elements["endpoints6"] == {"fd77::2 . 8080"}


def test_control_plane_by_name() -> None:
    """Where etcd or the registry is known by name only, its port is exempt everywhere."""
    assert "tcp dport { 22, 2379 } return" in planned(control=(("etcd.example", 2379),)).skeleton


def test_whose_calls() -> None:
    """Excluded processes come first; with included ones, only theirs are taken."""
    wanted = planned(
        include_users=(1000,),
        exclude_users=(0, 33),
        include_cgroups=("/shop.slice",),
        exclude_cgroups=("/system.slice/backup.service", "/batch.slice"),
    )
    chain = wanted.skeleton.partition("chain outbound")[2].partition("}\n  chain")[0].splitlines()
    assert [line.strip() for line in chain if "sk" in line or "cgroup" in line or "caught" in line] == [
        "meta skuid { 0, 33 } return",
        "socket cgroupv2 level 1 @excluded_cgroups_1 return",
        "socket cgroupv2 level 2 @excluded_cgroups_2 return",
        "meta skuid { 1000 } goto caught",
        "socket cgroupv2 level 1 @included_cgroups_1 goto caught",
    ]
    assert wanted.cgroups == {
        "excluded_cgroups_1": ("/batch.slice",),
        "excluded_cgroups_2": ("/system.slice/backup.service",),
        "included_cgroups_1": ("/shop.slice",),
    }


def test_inbound() -> None:
    """Workload ports from other hosts go to the plaintext port, which nobody reaches otherwise."""
    wanted = plan(rules(inbound_port=15006), view(workload_ports=(8080, 22)))
    inbound = wanted.skeleton.partition("chain inbound")[2]
    assert 'iifname "lo" return\n    tcp dport { 22 } return\n    tcp dport @inbound_ports' in inbound
    assert 'iifname != "lo" tcp dport 15006 ct status & dnat == 0 reject with tcp reset' in inbound
    assert wanted.elements["inbound_ports"] == {"8080", "22"}
    assert wanted.notes == ("workload port 22 is exempt: plaintext from other hosts reaches it",)
    assert "prerouting" not in planned().skeleton


def test_services_are_elements() -> None:
    """What comes and goes with the mesh leaves the skeleton as it is; the operator's settings do not."""
    more = view(vips={"default/api": (API4, API6), "default/db": ("240.240.0.8",)})
    assert plan(rules(), more).digest == planned().digest
    assert planned(exempt_ports=(5432,)).digest != planned().digest


def test_in_words() -> None:
    """A plan says what it takes, of whom, and what it leaves alone."""
    settings = rules(inbound_port=15006, exclude_users=(33,), control=(("10.0.0.9", 2379),))
    mesh = view(workload_ports=(8080,))
    assert list(describe(settings, mesh, plan(settings, mesh))) == [
        "takes: TCP from this host to 2 virtual IPs of all services (default/api) in 240.240.0.0/16, "
        "fd6d:6573:6800::/64; it goes to the proxy on port 15001",
        "of: every process",
        "but not of: user 33",
        "takes: TCP from other hosts to the workloads' ports 8080; it goes to the proxy on port 15006",
        "refuses: TCP to the virtual ranges that is not taken",
        "leaves alone: UDP, loopback, open connections, TCP ports 22, 10.0.0.9:2379, and what carries mark "
        "0x539 (the proxy's own)",
    ]
