"""h2 set up as tunnels use it: our end, what we advertise, and the error codes others may name. Pure."""

import enum

import h2.config
import h2.connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from node_proxy.tunnel.frames import goaway
from node_proxy.tunnel.windows import INITIAL_WINDOW

# Larger frames mean fewer of them; at most one is buffered in part, in the driver's 256 KiB buffer.
MAX_FRAME_SIZE = 128 * 1024
# As many as Envoy allows by default in a pool; a peer that needs more opens another tunnel.
MAX_CONCURRENT_STREAMS = 1024
# CONNECT needs a few hundred bytes; tracing headers some more.
MAX_HEADER_LIST_SIZE = 16 * 1024

# RFC 9113 section 7, for those who handle `StreamReset` or reset streams themselves.
NO_ERROR = int(ErrorCodes.NO_ERROR)
PROTOCOL_ERROR = int(ErrorCodes.PROTOCOL_ERROR)
FLOW_CONTROL_ERROR = int(ErrorCodes.FLOW_CONTROL_ERROR)
STREAM_CLOSED = int(ErrorCodes.STREAM_CLOSED)
COMPRESSION_ERROR = int(ErrorCodes.COMPRESSION_ERROR)
CANCEL = int(ErrorCodes.CANCEL)
CONNECT_ERROR = int(ErrorCodes.CONNECT_ERROR)
REFUSED_STREAM = int(ErrorCodes.REFUSED_STREAM)
INADEQUATE_SECURITY = int(ErrorCodes.INADEQUATE_SECURITY)

# The debug data of a GOAWAY that is made or shown: enough for one sentence.
MAX_WHY = 512


class Role(enum.Enum):
    """Which end of the tunnel we are: the one that opens streams or the one that is asked."""

    CLIENT = "client"
    SERVER = "server"


def new_connection(role: Role) -> h2.connection.H2Connection:
    """Give an h2 connection that has its preface and SETTINGS ready to send."""
    connection = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=role is Role.CLIENT))
    connection.local_settings = Settings(
        client=role is Role.CLIENT,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: INITIAL_WINDOW,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CONCURRENT_STREAMS,
            SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
        },
    )
    connection.initiate_connection()
    return connection


def refusal(role: Role, why: str) -> bytes:
    """Give all that one end says of a tunnel it will not have: its preface, and a GOAWAY that says why."""
    connection = new_connection(role)
    text = why.encode("ascii", "backslashreplace")[:MAX_WHY]
    return connection.data_to_send() + goaway(0, INADEQUATE_SECURITY, text)
