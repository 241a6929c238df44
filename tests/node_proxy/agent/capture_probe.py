"""What test_capture runs inside a network namespace of its own; prints what it saw as JSON."""

import json
import socket
import struct
import subprocess

import trio

from node_proxy.address import SocketAddress
from node_proxy.agent.capture import Capture, CapturePlan, plan
from node_proxy.agent.listeners import bind_all
from node_proxy.config import AdminSection, CaptureSection, ProxyConfig, TunnelSection
from node_proxy.errors import ConfigError

MARK = 0x539
PORT = 15001
SO_ORIGINAL_DST = 80
VIP4, VIP6, MOVED = "240.240.0.7", "fd6d:6573:6800::7", "240.241.0.7"


def wanted(*ranges: str) -> CapturePlan:
    """Plan the capture of these ranges."""
    return plan(vip_ranges=ranges, port=PORT, mark=MARK)


def original_destination(accepted: socket.socket) -> str:
    """Ask the kernel where a redirected connection wanted to go."""
    if accepted.family == socket.AF_INET:
        raw = accepted.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        return f"{socket.inet_ntoa(raw[4:8])}:{struct.unpack_from('!H', raw, 2)[0]}"
    raw = accepted.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])}:{struct.unpack_from('!H', raw, 2)[0]}"


def connect(address: str, listeners: list[socket.socket], *, mark: int = 0) -> str:
    """Connect to port 80 of `address`; gives the destination that arrived at a listener, or what happened."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as caller:
        caller.settimeout(0.3)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        try:
            caller.connect((address, 80))
        except TimeoutError:
            return "not captured"
        except OSError:
            return "unreachable"
        for listener in listeners:
            try:
                accepted, _ = listener.accept()
            except BlockingIOError:
                continue
            with accepted:
                return original_destination(accepted)
    return "accepted by nobody"


def loopback() -> str:
    """Connect to a port of loopback that is no listener of ours, and see whether it is answered there."""
    with (
        socket.create_server(("127.0.0.1", 80)),
        socket.create_connection(("127.0.0.1", 80), timeout=1) as caller,
    ):
        return f"{caller.getpeername()[0]} is left alone"


def shown(*command: str) -> str:
    """Give what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def main() -> None:
    """Apply, change and remove a capture."""
    await trio.run_process(["ip", "link", "set", "lo", "up"])
    listeners = bind_all(
        ProxyConfig(
            node="web-1",
            address="127.0.0.1",
            registry="https://127.0.0.1:1",
            tunnel=TunnelSection(listen=(SocketAddress("127.0.0.1:0"),)),
            admin=AdminSection(listen=SocketAddress("127.0.0.1:0")),
            capture=CaptureSection(enabled=True, port=PORT),
        )
    )
    captured = listeners.captured
    capture = Capture()
    seen: dict[str, object] = {"before": [connect(VIP4, captured), connect(VIP6, captured)]}
    await capture.apply(wanted("240.240.0.0/16", "fd6d:6573:6800::/64"))
    seen["applied"] = [connect(VIP4, captured), connect(VIP6, captured)]
    seen["elsewhere"] = loopback()
    seen["marked"] = connect(VIP4, captured, mark=MARK)
    await capture.apply(wanted("240.241.0.0/16"))
    seen["moved"] = [connect(VIP4, captured), connect(MOVED, captured)]
    await capture.remove()
    seen["removed"] = [connect(VIP4, captured), connect(MOVED, captured)]
    seen["tables"] = shown("nft", "list", "tables")
    seen["routes"] = shown("ip", "route") + "".join(
        line for line in shown("ip", "-6", "route").splitlines() if "fd6d" in line
    )
    try:
        await capture.apply(CapturePlan("nonsense", ()))
    except ConfigError as error:
        seen["complaint"] = "syntax error" in str(error)
    listeners.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    trio.run(main)
