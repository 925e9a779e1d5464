"""HTTP/2 frame constants (RFC 9113, sections 6 and 7), and the connection error and the stream error."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = Struct(">HBBBI")  # length (high 16, low 8), type, flags, stream: the nine bytes before a payload

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE = 1
ENABLE_PUSH = 2
MAX_CONCURRENT_STREAMS = 3
INITIAL_WINDOW_SIZE = 4
MAX_FRAME_SIZE = 5
MAX_HEADER_LIST_SIZE = 6

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
SETTINGS_TIMEOUT = 0x4
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC

MIN_FRAME_SIZE = 16_384  # every peer takes frames of this size
LARGEST_FRAME_SIZE = 2**24 - 1
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535


class ProtocolError(Exception):
    """Ends the connection with a GOAWAY of this code (RFC 9113, section 5.4.1)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamError(Exception):
    """Ends one stream with an RST_STREAM of this code (RFC 9113, section 5.4.2)."""

    def __init__(self, stream_id: int, code: int, reason: str) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.code = code
        self.reason = reason


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    length = len(payload)
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def settings_of(payload: bytes) -> dict[int, int]:
    """The settings in a SETTINGS frame, the last value of each. Raises ProtocolError."""
    if len(payload) % 6:
        raise ProtocolError(FRAME_SIZE_ERROR, "half a setting")
    chosen: dict[int, int] = {}
    for position in range(0, len(payload), 6):
        number = int.from_bytes(payload[position : position + 2], "big")
        chosen[number] = value = int.from_bytes(payload[position + 2 : position + 6], "big")
        _check_setting(number, value)
    return chosen


def _check_setting(number: int, value: int) -> None:
    """Raises ProtocolError (RFC 9113, section 6.5.2)."""
    if number == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
        raise ProtocolError(FLOW_CONTROL_ERROR, "a window above 2^31-1")
    if number == MAX_FRAME_SIZE and not MIN_FRAME_SIZE <= value <= LARGEST_FRAME_SIZE:
        raise ProtocolError(PROTOCOL_ERROR, "a frame size out of bounds")
    if number == ENABLE_PUSH and value > 1:
        raise ProtocolError(PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")


def unpadded(payload: bytes) -> bytes:
    """The payload of a frame with the flag PADDED, without its padding. Raises ProtocolError."""
    if not payload:
        raise ProtocolError(FRAME_SIZE_ERROR, "no room for the padding's length")
    padding = payload[0]
    if padding >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - padding]
