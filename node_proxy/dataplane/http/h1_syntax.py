"""The words of HTTP/1.1 and what is refused about them (RFC 9110 and 9112). Pure.

The grammar here is the strict one: what RFC 9112 lets a recipient tolerate (bare LF, obs-fold, space around
names, several equal lengths) is refused: two recipients that tolerate differently see different requests.
"""

import re
from typing import Final

from node_proxy.dataplane.http.exchange import MessageRefused

# Reasons of `MessageRefused`, besides those that name a limit (`limits`): a closed set.
BAD_START_LINE: Final = "bad_start_line"
BAD_VERSION: Final = "bad_version"
BAD_METHOD: Final = "bad_method"
BAD_TARGET: Final = "bad_target"
BAD_HOST: Final = "bad_host"
BAD_FIELD: Final = "bad_field"
BAD_FRAMING: Final = "bad_framing"
BAD_CHUNK: Final = "bad_chunk"
BAD_EXPECTATION: Final = "bad_expectation"
BAD_STATUS: Final = "bad_status"

# RFC 9110 section 5.6.2.
_TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# RFC 9110 section 5.5: visible characters, space, tab and obs-text. No other control character.
_VALUE: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
TOKEN: Final = re.compile(_TCHAR + rb"++")
# Every repetition is possessive: time is linear in the bytes, whatever they are.
FIELD_LINES: Final = re.compile(rb"(?:" + _TCHAR + rb"++:" + _VALUE + rb"\r\n)*+")
FIELD_LINE: Final = re.compile(rb"(" + _TCHAR + rb"++):[ \t]*+(" + _VALUE + rb")\r\n")
# RFC 9112 section 3. Longer methods are no methods.
REQUEST_LINE: Final = re.compile(rb"(" + _TCHAR + rb"{1,32}) ([\x21-\x7e]++) (HTTP/[0-9]\.[0-9])\r\n")
# RFC 9112 section 4. Some servers leave out the space before a reason that is empty.
STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + _VALUE + rb")?\r\n")
# RFC 9110 section 7.2, without what nobody means: no escapes, no user, no port that is empty.
AUTHORITY: Final = re.compile(rb"(?:[a-z0-9._~-]{1,255}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")
# RFC 9110 section 7.8.
PROTOCOL: Final = re.compile(_TCHAR + rb"++(?:/" + _TCHAR + rb"++)?")
ABSOLUTE_FORM: Final = re.compile(rb"(https?)://([^/?#]*+)([/?].*+)?", re.IGNORECASE)
CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
# RFC 9112 section 7.1, after whose size up to fifteen digits are a size.
_QUOTED: Final = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t -\x7e\x80-\xff])*+"'
_EXTENSION: Final = (
    rb"[ \t]*+;[ \t]*+" + _TCHAR + rb"++(?:[ \t]*+=[ \t]*+(?:" + _TCHAR + rb"++|" + _QUOTED + rb"))?"
)
CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*+\r\n")
# A LF without CR before it, or a CR without LF behind it, in bytes that may go on.
BARE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
# How a request line may begin, in bytes that may go on.
REQUEST_BEGINNING: Final = re.compile(_TCHAR + rb"{1,32}(?: |\Z)")

# What belongs to one connection (RFC 9110 section 7.6.1) or became a value of the head: never a field.
CONNECTION_FIELDS: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
# Of an answer, where `expect`, `host` and `te` mean nothing and are passed on as they came.
ANSWER_CONNECTION_FIELDS: Final = CONNECTION_FIELDS - {b"expect", b"host", b"te"}


def bad(reason: str, detail: str) -> MessageRefused:
    """Give the refusal with 400."""
    return MessageRefused(400, reason, detail)
