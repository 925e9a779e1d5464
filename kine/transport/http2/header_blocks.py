"""Header blocks: assembly from HEADERS and CONTINUATION frames, and decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kine.transport.http2 import frames
from kine.transport.http2.frames import END_HEADERS, ProtocolError, StreamError, unpadded
from kine.transport.http2.hpack import BlockError, Decoder, ListTooLargeError

if TYPE_CHECKING:
    from kine.transport.http2.hpack import Field

MAX_HEADER_LIST = 64 * 1024  # bytes, as RFC 9113 counts them
_MAX_BLOCK = 64 * 1024  # bytes, with all its CONTINUATION frames
_MAX_CONTINUATIONS = 32
_SELFISH = 0x100  # internal flag, not HTTP/2's: the stream depends on itself (RFC 7540, section 5.3.1)

Block = tuple[int, int, bytes]  # stream, flags, complete block


class HeaderBlocks:
    def __init__(self) -> None:
        self._decoder = Decoder(MAX_HEADER_LIST)
        self._stream = 0
        self._flags = 0
        self._parts = bytearray()
        self._continuations = 0
        self.open = False  # the next frame must be a CONTINUATION

    def begun(self, flags: int, stream_id: int, payload: bytes) -> Block | None:
        """Takes a HEADERS frame; returns the block if it is complete. Raises ProtocolError."""
        if not stream_id & 1:
            raise ProtocolError(frames.PROTOCOL_ERROR, "HEADERS on a stream that is no client's")
        if flags & frames.PADDED:
            payload = unpadded(payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(frames.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends_on = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
            payload = payload[5:]
            if depends_on == stream_id:
                flags |= _SELFISH  # raised after decoding, or the HPACK tables would get out of sync
        if flags & END_HEADERS:
            return stream_id, flags, payload
        self.open = True
        self._stream, self._flags, self._parts = stream_id, flags, bytearray(payload)
        self._continuations = 0
        return None

    def continued(self, flags: int, stream_id: int, payload: bytes) -> Block | None:
        """Takes a CONTINUATION frame, otherwise like `begun`."""
        if not self.open or self._stream != stream_id:
            raise ProtocolError(frames.PROTOCOL_ERROR, "CONTINUATION of no header block")
        block = self._parts
        self._continuations += 1
        if len(block) + len(payload) > _MAX_BLOCK or self._continuations > _MAX_CONTINUATIONS:
            raise ProtocolError(frames.ENHANCE_YOUR_CALM, "a header block without end")
        block += payload
        if not flags & END_HEADERS:
            return None
        self.open, self._parts = False, bytearray()
        return stream_id, self._flags, bytes(block)

    def decoded(self, stream_id: int, flags: int, block: bytes) -> tuple[Field, ...]:
        """The fields of a complete block. Raises ProtocolError, StreamError."""
        try:
            fields = self._decoder.decode(block)
        except BlockError as error:
            raise ProtocolError(frames.COMPRESSION_ERROR, str(error)) from None
        except ListTooLargeError:
            raise StreamError(stream_id, frames.ENHANCE_YOUR_CALM, "too many headers") from None
        if flags & _SELFISH:
            raise StreamError(stream_id, frames.PROTOCOL_ERROR, "a stream that depends on itself")
        return fields
