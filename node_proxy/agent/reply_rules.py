"""The nftables rules that mark what workloads answer to a caller's own address. Pure.

`node_proxy.agent.source_routing` says what they are for and leads what is marked to the proxy.
"""


def reply_mark(mark: int) -> int:
    """Give the mark of answers to connections that the proxy, whose own mark is `mark`, made for a caller."""
    return mark + 1


def reply_rules(mark: int) -> list[str]:
    """Write the chain: it remembers those of the proxy's connections whose source is not this host."""
    reply = f"{reply_mark(mark):#x}"
    return [
        # `route` looks for a route anew after the mark; mangle comes after connection tracking.
        "type route hook output priority mangle; policy accept;",
        f"meta mark {mark:#x} fib saddr type != local ct mark set {reply}",
        f"ct direction reply ct mark {reply} meta mark set {reply}",
    ]
