"""What test_source_routing runs inside a network namespace of its own; prints what it saw as JSON."""

import json
import subprocess

from node_proxy.agent.source_routing import install, remove
from node_proxy.errors import ConfigError

MARK, OTHER_MARK = 0x539, 0x700
ROUNDS = 50


def shown() -> str:
    """Give every rule and route of both families, as ip lists them."""
    # Addresses and routes that the kernel makes for loopback are there from the beginning.
    questions = (["rule"], ["route", "show", "table", "all"])
    commands = [[f"-{family}", *question] for family in (4, 6) for question in questions]
    return "".join(
        subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout
        for command in commands
    )


def marks() -> list[str]:
    """Give the marks that lead to our table, IPv4 first."""
    return [line.split("fwmark ")[1].split()[0] for line in shown().splitlines() if "lookup 1337" in line]


def main() -> None:
    """Install, change, and remove."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Somebody else's, which look alike.
    subprocess.run(["ip", "rule", "add", "fwmark", "0x1", "lookup", "100", "pref", "100"], check=True)
    subprocess.run(["ip", "route", "add", "local", "default", "dev", "lo", "table", "100"], check=True)
    before = shown()
    seen: dict[str, object] = {"changed": [install(MARK, (4, 6)), install(MARK, (4, 6))]}
    seen["marks"] = marks()
    subprocess.run(["ip", "rule", "del", "fwmark", f"{MARK + 1:#x}"], check=True)
    seen["mended"] = [install(MARK, (4, 6)), marks()]
    seen["other mark"] = [install(OTHER_MARK, (4, 6)), marks()]
    remove()
    seen["removed"] = shown() == before
    remove()
    install(MARK, (6,))
    seen["one family"] = len(marks())
    remove()
    for _ in range(ROUNDS):
        install(MARK, (4, 6))
        remove()
    seen["no residue"] = shown() == before
    try:
        install(-2, (4,))
    except ConfigError as error:
        seen["complaint"] = str(error)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
