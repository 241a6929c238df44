"""The table in nft's words: its skeleton, and the elements of its sets. Pure.

The *skeleton* (chains, rules, empty sets) depends on the settings alone; what comes and goes with the mesh is
*elements* of sets, so that a new service is one element and not a new table.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from node_proxy.agent.capture.terms import CaptureRules, Elements, Network

TABLE = "inet nodemesh"
# Before the destination NAT of docker and others at -100: a published container port of the same number
# would be a way around.
NAT_PRIORITY = -105
# nft 1.0.6 has no `destroy`: adding first makes the delete succeed.
REMOVAL = f"add table {TABLE}\ndelete table {TABLE}\n"


def difference(old: Elements, new: Elements) -> str:
    """Write nft's input that turns the elements `old` into `new`; empty when they are the same.

    What goes is named before what comes, and all of it is one transaction.
    """
    return "".join(
        f"{verb} element {TABLE} {name} {{ {', '.join(sorted(changed))} }}\n"
        for verb, before, after in (("delete", new, old), ("add", old, new))
        for name in sorted(after)
        if (changed := after[name] - before.get(name, frozenset()))
    )


def refill(elements: Elements) -> str:
    """Write nft's input that makes the sets hold exactly `elements`, whatever they held."""
    return "".join(f"flush set {TABLE} {name}\n" for name in sorted(elements)) + difference({}, elements)


def replacement(table: str, elements: Elements) -> str:
    """Write nft's input that replaces our table by `table`, filled: one input is one transaction."""
    return f"{REMOVAL}{table}{difference({}, elements)}"


def cgroup_set(kind: str, path: str) -> str:
    """Name the set for a cgroup: nft compares one depth at a time."""
    return f"{kind}_cgroups_{path.count('/')}"


def skeleton(
    rules: CaptureRules,
    networks: Sequence[Network],
    exemptions: Sequence[str],
    cgroups: Mapping[str, tuple[str, ...]],
) -> str:
    """Write the table without elements.

    Args:
        rules: the operator's settings.
        networks: the virtual ranges.
        exemptions: rules about what is never taken, outbound or inbound.
        cgroups: the sets of cgroups, by name.
    """
    sets = [
        "set vips4 { type ipv4_addr; }",
        "set vips6 { type ipv6_addr; }",
        "set endpoints4 { type ipv4_addr . inet_service; }",
        "set endpoints6 { type ipv6_addr . inet_service; }",
        *(f"set {name} {{ type cgroupsv2; }}" for name in sorted(cgroups)),
    ]
    # nft wants the protocol named before a redirect to a port.
    to = f"redirect to :{rules.port}"
    chains = {
        "caught": [
            f"ip daddr @vips4 meta l4proto tcp {to}",
            f"ip6 daddr @vips6 meta l4proto tcp {to}",
            f"ip daddr . tcp dport @endpoints4 {to}",
            f"ip6 daddr . tcp dport @endpoints6 {to}",
        ],
        "outbound": [
            f"type nat hook output priority {NAT_PRIORITY}; policy accept;",
            "meta l4proto != tcp return",
            f"meta mark {rules.mark:#x} return",
            "ip daddr 127.0.0.0/8 return",
            "ip6 daddr ::1 return",
            *exemptions,
            *_whose("excluded", rules.exclude_users, cgroups, "return"),
            *_whose("included", rules.include_users, cgroups, "goto caught"),
            *([] if rules.selective else ["goto caught"]),
        ],
        # What was not taken would leave by the route to loopback and wait for nobody's answer.
        "refuse": [
            "type filter hook output priority 0; policy accept;",
            *(f"{daddr(each.version)} {each} meta l4proto tcp reject with tcp reset" for each in networks),
        ],
    }
    if rules.inbound_port is not None:
        sets.append("set inbound_ports { type inet_service; }")
        chains["inbound"] = [
            f"type nat hook prerouting priority {NAT_PRIORITY}; policy accept;",
            "meta l4proto != tcp return",
            'iifname "lo" return',
            *exemptions,
            f"tcp dport @inbound_ports fib daddr type local redirect to :{rules.inbound_port}",
        ]
        # The plaintext port is for connections that were redirected to it.
        chains["guard"] = [
            "type filter hook input priority 0; policy accept;",
            f'iifname != "lo" tcp dport {rules.inbound_port} ct status & dnat == 0 reject with tcp reset',
        ]
    if rules.answers:
        chains["answers"] = list(rules.answers)
    blocks = [f"  {each}\n" for each in sets]
    for name, lines in chains.items():
        body = "".join(f"    {line}\n" for line in lines)
        blocks.append(f"  chain {name} {{\n{body}  }}\n")
    return f"table {TABLE} {{\n{''.join(blocks)}}}\n"


def _whose(
    kind: str, users: Sequence[int], cgroups: Mapping[str, tuple[str, ...]], verdict: str
) -> Iterator[str]:
    if users:
        yield f"meta skuid {any_of(str(each) for each in sorted(set(users)))} {verdict}"
    for name in sorted(cgroups):
        if name.startswith(kind):
            yield f"socket cgroupv2 level {name.rpartition('_')[2]} @{name} {verdict}"


def any_of(values: Iterable[str]) -> str:
    """Write an anonymous set."""
    return f"{{ {', '.join(values)} }}"


def daddr(version: int) -> str:
    """Name the destination address of an IP version."""
    return "ip daddr" if version == 4 else "ip6 daddr"
