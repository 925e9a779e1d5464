"""The client side of HTTP/2 (RFC 9113), as far as gRPC calls need it: sans-I/O, bytes in and bytes out.

It does little on purpose, because a load driver must cost less than the server it measures. The HEADERS and
DATA of a call are sent as one packed string, and the three frames of an answer are parsed in one loop. Flow
control is kept both ways: the client's windows are wide and refilled at half, the server's are never
exceeded.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol
from urllib.parse import unquote

from bench.hpack_client import DEFAULT_TABLE_SIZE, AnswerBlocks, RequestBlocks

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM = ACK = 1
END_HEADERS = 4
PADDED = 8
PRIORITY = 32

STREAM_WINDOW = 32 << 20  # wide enough that no list of 10 MB waits for a WINDOW_UPDATE
CONNECTION_WINDOW = 256 << 20
MAX_FRAME = 1 << 14  # for received frames: the client does not raise SETTINGS_MAX_FRAME_SIZE
MAX_WINDOW = (1 << 31) - 1
DEFAULT_WINDOW = 65_535

CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 1, 2, 4, 8, 13, 14
_STATUS_OF_RESET = {0x7: UNAVAILABLE, 0x8: CANCELLED, 0xB: RESOURCE_EXHAUSTED}  # gRPC over HTTP/2, "Errors"
_STATUS_OF_HTTP = {"400": 13, "401": 16, "403": 7, "404": 12, "429": 14, "502": 14, "503": 14, "504": 14}

_HEAD = struct.Struct(">BHBBI")
_HEAD_UNPACK = _HEAD.unpack_from
_UINT32 = struct.Struct(">I")


class ProtocolError(Exception):
    """The server broke HTTP/2 or gRPC framing; the connection cannot be used any more."""


class Receiver(Protocol):
    """Receives the data of one stream. The connection sets both counters."""

    stream: int
    """The stream's id; 0 while the call waits for one."""
    received: int
    """Bytes of DATA not yet given back to the stream's window."""

    @property
    def passed(self) -> Callable[[bytes | memoryview, int, int], None] | None:
        """A function called instead of `data`, for streams with megabytes of which little is needed.

        It gets a buffer that is reused, and the start and end of the piece in it.
        """

    def data(self, payload: bytes) -> None:
        """A piece of the stream of length-prefixed messages."""

    def end(self, status: int, message: str) -> None:
        """The call's gRPC status; nothing comes after."""


class _Upload:
    """The open request side of a stream: its send window, and the data waiting for that."""

    __slots__ = ("parts", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.parts: deque[tuple[memoryview, bool]] = deque()  # (rest of a message, ends the request)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


class Connection:
    """One connection. `out` is the data for the caller to send; `receive` takes received data.

    Send nothing but `out` until `ready`: the server's SETTINGS decide how requests are compressed.
    """

    def __init__(self, authority: str, *, secure: bool = False) -> None:
        self.out: list[bytes] = []
        self.streams: dict[int, Receiver] = {}
        self.ready = False
        self.goaway = ""  # the reason why the server refuses new calls here; empty: it accepts them
        self._authority, self._secure = authority, secure
        self._requests: RequestBlocks | None = None
        self._packed: dict[str, tuple[struct.Struct, bytes]] = {}
        self._answers = AnswerBlocks()
        self._next_stream = 1
        self._max_streams = MAX_WINDOW
        self._max_frame = MAX_FRAME
        self._window = DEFAULT_WINDOW  # bytes that may still be sent on the connection
        self._stream_window = DEFAULT_WINDOW  # bytes that a new stream may send
        self._uploads: dict[int, _Upload] = {}  # streams whose request was not sent at once
        self._blocked: dict[int, _Upload] = {}  # those of `_uploads` with parts left
        self._waiting: deque[tuple[Receiver, str, bytes, bool]] = deque()  # over the server's stream limit
        self._received = 0
        self._rest = b""
        self._open_block: tuple[int, int, bytearray] | None = None  # stream, flags, HEADERS so far
        settings = struct.pack(">HIHI", 0x2, 0, 0x4, STREAM_WINDOW)  # no push; the client's stream window
        grow = _UINT32.pack(CONNECTION_WINDOW - DEFAULT_WINDOW)
        self.out += [PREFACE, frame(SETTINGS, 0, 0, settings), frame(WINDOW_UPDATE, 0, 0, grow)]

    # ---- calls

    def request(self, receiver: Receiver, path: str, message: bytes, *, last: bool = True) -> None:
        """Starts a call and sends its first message; with `last`, it is the only one.

        A call over the server's limit of streams waits for one to end.
        """
        streams = self.streams
        receiver.received = 0
        if len(streams) >= self._max_streams:
            receiver.stream = 0
            self._waiting.append((receiver, path, message, last))
            return
        stream = receiver.stream = self._next_stream
        self._next_stream = stream + 2
        streams[stream] = receiver
        size = len(message)
        length = size + 5
        packed = self._packed.get(path)
        if (
            packed is not None
            and last
            and length <= self._max_frame
            and length <= self._window
            and length <= self._stream_window
            and not self._blocked
        ):
            self._window -= length
            shape, block = packed
            head = len(block)
            # fmt: off
            self.out.append(shape.pack(0, head, HEADERS, END_HEADERS, stream, block,
                                       length >> 16, length & 0xFFFF, DATA, END_STREAM, stream, 0, size))
            # fmt: on
            self.out.append(message)
            return
        self.out.append(frame(HEADERS, END_HEADERS, stream, self._block(path)))
        self._uploads[stream] = _Upload(self._stream_window)
        self.send(stream, message, last=last)

    def send(self, stream: int, message: bytes, *, last: bool = False) -> None:
        """Sends one more message of an open request, as far as the windows allow."""
        self._queue(stream, b"\0" + _UINT32.pack(len(message)) + message, last)

    def half_close(self, stream: int) -> None:
        """Ends the request's side of an open stream."""
        self._queue(stream, b"", True)

    def cancel(self, receiver: Receiver) -> None:
        """Cancels a call; its receiver is not called again."""
        if receiver.stream == 0:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not receiver)
        elif self.streams.get(receiver.stream) is receiver:
            del self.streams[receiver.stream]
            self._forget(receiver.stream)
            self.out.append(frame(RST_STREAM, 0, receiver.stream, _UINT32.pack(0x8)))
            self._start_waiting()

    def _block(self, path: str) -> bytes:
        if self._requests is None:
            raise ProtocolError("a call before the server's SETTINGS")
        entries = self._requests.entries
        block, stable = self._requests.block(path)
        if self._requests.entries != entries:
            self._packed.clear()  # the change moved every index
        if stable:
            self._packed[path] = (struct.Struct(f">BHBBI{len(block)}sBHBBIBI"), block)
        return block

    def _queue(self, stream: int, data: bytes, last: bool) -> None:
        upload = self._uploads.get(stream)
        if upload is not None:
            upload.parts.append((memoryview(data), last))
            self._blocked[stream] = upload
            self._pump()

    def _pump(self) -> None:
        """Sends as much pending data as the windows allow, the longest waiting stream first."""
        for stream, upload in list(self._blocked.items()):
            while upload.parts:
                rest, last = upload.parts[0]
                size = min(len(rest), upload.window, self._window, self._max_frame)
                if size <= 0 < len(rest):
                    break
                upload.window -= size
                self._window -= size
                done = size == len(rest)
                flags = END_STREAM if done and last else 0
                self.out.append(frame(DATA, flags, stream, bytes(rest[:size])))
                if not done:
                    upload.parts[0] = (rest[size:], last)
                    continue
                upload.parts.popleft()
                if last:
                    del self._uploads[stream]
            if not upload.parts:
                del self._blocked[stream]

    def _forget(self, stream: int) -> bool:
        """Drops the pending data of a stream. Returns whether its request was still open."""
        self._blocked.pop(stream, None)
        return self._uploads.pop(stream, None) is not None

    def _start_waiting(self) -> None:
        while self._waiting and len(self.streams) < self._max_streams:
            receiver, path, message, last = self._waiting.popleft()
            self.request(receiver, path, message, last=last)

    # ---- answers

    def take_rest(self) -> bytes:
        """The beginning of an incomplete frame, for `receive` to get again with the data after it."""
        rest, self._rest = self._rest, b""
        return rest

    def receive(self, data: bytes | memoryview) -> None:
        """Parses received data and calls the receivers. Raises ProtocolError, hpack.HPACKError."""
        if self._rest:
            data = self._rest + data
        position, size = 0, len(data)
        streams = self.streams
        while size - position >= 9:
            high, low, kind, flags, stream = _HEAD_UNPACK(data, position)
            length = high << 16 | low
            start = position + 9
            stop = start + length
            if length > MAX_FRAME:
                raise ProtocolError(f"frame of {length} bytes, {MAX_FRAME} allowed")
            if stop > size:
                break
            position = stop
            if self._open_block is not None and kind != CONTINUATION:
                raise ProtocolError("a header block was interrupted")
            if kind == DATA:
                self._received += length
                receiver = streams.get(stream)
                if receiver is not None:
                    receiver.received += length
                    if flags & PADDED:
                        start, stop = start + 1, stop - data[start]
                    if receiver.passed is None:
                        receiver.data(bytes(data[start:stop]))
                    else:
                        receiver.passed(data, start, stop)
                    if streams.get(stream) is not receiver:
                        continue  # the receiver cancelled its call
                    if flags & END_STREAM:
                        self._end(stream, INTERNAL, "server ended the stream without trailers")
                    elif receiver.received >= STREAM_WINDOW // 2:
                        update = _UINT32.pack(receiver.received)
                        self.out.append(frame(WINDOW_UPDATE, 0, stream, update))
                        receiver.received = 0
            elif kind == HEADERS and flags & (END_HEADERS | PADDED | PRIORITY) == END_HEADERS:
                self._headers(stream, flags, bytes(data[start:stop]))
            else:
                self._other(kind, flags, stream, bytes(data[start:stop]))
        self._rest = bytes(data[position:])
        if self._received >= CONNECTION_WINDOW // 2:
            self.out.append(frame(WINDOW_UPDATE, 0, 0, _UINT32.pack(self._received)))
            self._received = 0

    def _headers(self, stream: int, flags: int, block: bytes) -> None:
        headers = self._answers.decode(block)
        if flags & END_STREAM:
            status = headers.get("grpc-status")
            if status is None:
                http = headers.get(":status", "none")
                self._end(stream, _STATUS_OF_HTTP.get(http, UNKNOWN), f"no grpc-status, HTTP status {http}")
            else:
                self._end(stream, int(status), unquote(headers.get("grpc-message", "")))
        elif headers.get(":status") != "200":
            http = headers.get(":status", "none")
            self.cancel_with(stream, _STATUS_OF_HTTP.get(http, UNKNOWN), f"HTTP status {http}")

    def cancel_with(self, stream: int, status: int, message: str) -> None:
        """Cancels a call and passes the status to its receiver."""
        receiver = self.streams.get(stream)
        if receiver is not None:
            self.cancel(receiver)
            receiver.end(status, message)

    def _end(self, stream: int, status: int, message: str) -> None:
        receiver = self.streams.pop(stream, None)
        if receiver is None:
            return
        if self._forget(stream):  # the answer came before the request's end: nothing more to send
            self.out.append(frame(RST_STREAM, 0, stream, _UINT32.pack(0x8)))
        receiver.end(status, message)
        if self._waiting:
            self._start_waiting()

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & PRIORITY:
                payload = payload[5:]
            if flags & END_HEADERS:
                self._headers(stream, flags, payload)
            else:
                self._open_block = (stream, flags, bytearray(payload))
        elif kind == CONTINUATION:
            if self._open_block is None or self._open_block[0] != stream:
                raise ProtocolError("CONTINUATION without HEADERS")
            _, first_flags, block = self._open_block
            block += payload
            if len(block) > 1 << 20:
                raise ProtocolError("header block over 1 MiB")
            if flags & END_HEADERS:
                self._open_block = None
                self._headers(stream, first_flags, bytes(block))
        elif kind == WINDOW_UPDATE:
            (grow,) = _UINT32.unpack(payload)
            if stream == 0:
                self._window += grow
            elif stream in self._uploads:
                self._uploads[stream].window += grow
            if self._blocked:
                self._pump()
        elif kind == PING:
            if not flags & ACK:
                self.out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            if not flags & ACK:
                self._settings(payload)
        elif kind == RST_STREAM:
            (code,) = _UINT32.unpack(payload)
            self._forget(stream)
            self._end(stream, _STATUS_OF_RESET.get(code, INTERNAL), f"stream reset with code {code}")
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            text = payload[8:].decode("utf-8", "replace")
            self.goaway = f"GOAWAY with code {code} {text}".rstrip()
            for unseen in [s for s in self.streams if s > last & MAX_WINDOW]:
                self._forget(unseen)
                self._end(unseen, UNAVAILABLE, self.goaway)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE though push is off")

    def _settings(self, payload: bytes) -> None:
        table_size = DEFAULT_TABLE_SIZE
        for key, value in struct.iter_unpack(">HI", payload):
            if key == 0x1:
                table_size = value
            elif key == 0x3:
                self._max_streams = value
            elif key == 0x4:
                if value > MAX_WINDOW:
                    raise ProtocolError("initial window over 2^31-1")
                for upload in self._uploads.values():
                    upload.window += value - self._stream_window
                self._stream_window = value
            elif key == 0x5:
                self._max_frame = value
        self.out.append(frame(SETTINGS, ACK, 0))
        if self._requests is None:
            self._requests = RequestBlocks(self._authority, secure=self._secure, table_size=table_size)
        self.ready = True
        self._start_waiting()
        self._pump()

    def fail(self, reason: str) -> None:
        """Ends every call with UNAVAILABLE: the connection is lost."""
        streams, self.streams = self.streams, {}
        waiting, self._waiting = self._waiting, deque()
        self._uploads.clear()
        self._blocked.clear()
        for receiver in [*streams.values(), *(entry[0] for entry in waiting)]:
            receiver.end(UNAVAILABLE, reason)


class Messages:
    """Splits a stream's DATA into gRPC messages. Raises ProtocolError for a compressed one."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, payload: bytes) -> list[bytes]:
        data = self._rest + payload if self._rest else payload
        found: list[bytes] = []
        position, size = 0, len(data)
        while size - position >= 5:
            if data[position]:
                raise ProtocolError("compressed message though none was offered")
            (length,) = _UINT32.unpack_from(data, position + 1)
            if size - position - 5 < length:
                break
            found.append(data[position + 5 : position + 5 + length])
            position += 5 + length
        self._rest = data[position:] if position else data
        return found
