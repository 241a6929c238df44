"""One end's view of an HTTP/2 connection's streams: flow control, half-close, lengths. Pure."""

import h2.config
import h2.connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from node_proxy.dataplane.http.exchange import MessageRefused
from node_proxy.dataplane.http.limits import TOO_MANY_STREAMS
from node_proxy.tunnel.http2 import Role
from node_proxy.tunnel.windows import ReceiveWindow, SendWindow, WindowBudget

# What RFC 9113 section 6.5.2 starts with. It grows for a body that is read as fast as it comes, up to 4 MiB,
# so most streams of a connection, which carry little, cannot hold much.
INITIAL_WINDOW = 65_535
# Growth for the streams of one connection: two at the largest window.
GROWTH_BUDGET = 8 * 1024 * 1024
# Credited on receipt, so it only has to cover a round trip of all streams: 4 MiB fill 10 Gbit/s at 3 ms.
CONNECTION_WINDOW = 4 * 1024 * 1024
# Content that nobody has taken, of all streams of a connection; beyond it the connection gets no more credit.
# So a few readers that stall hold up their own streams only, and all together hold this and a window at most.
MAX_UNREAD = 2 * 1024 * 1024
# Larger frames mean fewer of them; at most one is buffered in part.
MAX_FRAME_SIZE = 64 * 1024
# Callers that ask for more at once open another connection, or wait. Envoy's default for listeners that
# face clients one does not know is 100; those of a mesh are known.
MAX_CONCURRENT_STREAMS = 256

INTERNAL_ERROR = int(ErrorCodes.INTERNAL_ERROR)


def too_many_streams() -> MessageRefused:
    """Give what is said of a request beyond MAX_CONCURRENT_STREAMS; the peer is told REFUSED_STREAM."""
    return MessageRefused(503, TOO_MANY_STREAMS, f"more than {MAX_CONCURRENT_STREAMS} requests at once")


def new_connection(role: Role, *, max_list_size: int) -> h2.connection.H2Connection:
    """Give an h2 connection that has its preface and SETTINGS ready to send."""
    connection = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=role is Role.CLIENT))
    connection.local_settings = Settings(
        client=role is Role.CLIENT,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: INITIAL_WINDOW,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_list_size,
        },
    )
    connection.initiate_connection()
    return connection


class Stream:
    """Flow control, half-close and what is still to come on one stream.

    Args:
        send_window: what the peer lets us send at first.
        budget: pays for the growth of what it may send.
        method: of a request of ours: it tells whether its answer may have a body.
    """

    __slots__ = (
        "begun",
        "informed",
        "method",
        "receive",
        "received_end",
        "remaining",
        "send",
        "sent_end",
        "unread",
    )

    def __init__(self, send_window: int, budget: WindowBudget, method: bytes = b"") -> None:
        self.send = SendWindow(send_window)
        self.receive = ReceiveWindow(budget, INITIAL_WINDOW)
        self.method = method
        # Whether the head came of what the peer says; and how many informational ones came before it.
        self.begun = False
        self.informed = 0
        self.sent_end = False
        self.received_end = False
        # Bytes of the body still to come; None where only its end will tell.
        self.remaining: int | None = None
        # Bytes that came and were not taken yet.
        self.unread = 0

    def take(self, amount: int) -> bool:
        """Count bytes of the body; False when there are more than its length says."""
        if self.remaining is None:
            return True
        self.remaining -= amount
        return self.remaining >= 0
