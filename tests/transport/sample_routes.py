"""Sample routes that each show one behaviour of a transport, and a record of what their handlers saw."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from kine.transport.base import Code, Pieces, RpcError, Streaming, Unary

if TYPE_CHECKING:
    from kine.transport.base import Call, MessageStream, Routes

SECRET = "postgres://user:password@db"


class Seen:
    """Events by name, set by handlers in the server's thread and awaited by tests in theirs."""

    def __init__(self) -> None:
        self._events: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self.sent: dict[str, int] = {}

    def __getitem__(self, name: str) -> threading.Event:
        return self._events[name]

    def __setitem__(self, name: str, event: threading.Event) -> None:
        self._events[name] = event


class Handlers:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def routes(self) -> Routes:
        return {
            "/test.Echo/Now": Unary(self.now),
            "/test.Echo/Later": Unary(self.later),
            "/test.Echo/Sized": Unary(self.sized),
            "/test.Echo/SizedLater": Unary(self.sized_later),
            "/test.Echo/Pieces": Unary(self.pieces),
            "/test.Echo/PiecesLater": Unary(self.pieces_later),
            "/test.Echo/Roomy": Unary(self.roomy),
            "/test.Echo/Length": Unary(self.length),
            "/test.Echo/Call": Unary(self.call),
            "/test.Echo/Fail": Unary(self.fail),
            "/test.Echo/FailLater": Unary(self.fail_later),
            "/test.Echo/Crash": Unary(self.crash),
            "/test.Echo/CrashLater": Unary(self.crash_later),
            "/test.Echo/Hang": Unary(self.hang),
            "/test.Stream/Chat": Streaming(self.chat),
            "/test.Stream/Count": Streaming(self.count),
            "/test.Stream/Collect": Streaming(self.collect),
            "/test.Stream/Call": Streaming(self.stream_call),
            "/test.Stream/Fail": Streaming(self.stream_fail),
            "/test.Stream/Crash": Streaming(self.stream_crash),
            "/test.Stream/Hang": Streaming(self.stream_hang),
            "/test.Stream/Pour": Streaming(self.pour),
            "/test.Stream/Ignore": Streaming(self.ignore),
        }

    # ---- unary

    def now(self, request: bytes, call: Call) -> bytes:
        return request

    async def later(self, request: bytes, call: Call) -> bytes:
        await asyncio.sleep(0)
        return request

    def sized(self, request: bytes, call: Call) -> bytes:
        """Returns as many bytes as the request says."""
        return bytes(int(request))

    async def sized_later(self, request: bytes, call: Call) -> bytes:
        await asyncio.sleep(0)
        return bytes(int(request))

    def pieces(self, request: bytes, call: Call) -> Pieces:
        """Returns pieces of the sizes that the request says, each of a different letter."""
        return Pieces([b"%c" % (97 + place) * int(size) for place, size in enumerate(request.split())])

    async def pieces_later(self, request: bytes, call: Call) -> Pieces:
        await asyncio.sleep(0)
        return self.pieces(request, call)

    async def roomy(self, request: bytes, call: Call) -> bytes:
        """Returns as many bytes as the request says, once there is room; counts the responses made."""
        await asyncio.sleep(0)
        assert call.room is not None
        await call.room(int(request))
        self._seen.sent["made"] = self._seen.sent.get("made", 0) + 1
        self._seen["first made"].set()
        return bytes(int(request))

    def length(self, request: bytes, call: Call) -> bytes:
        return b"%d" % len(request)

    def call(self, request: bytes, call: Call) -> bytes:
        """Returns all that a handler knows of its call, as JSON; the deadline in seconds from now."""
        return _described(call)

    def fail(self, request: bytes, call: Call) -> bytes:
        """Fails with the code and text in the request: `5 no such thing`."""
        raise _error(request)

    async def fail_later(self, request: bytes, call: Call) -> bytes:
        await asyncio.sleep(0)
        raise _error(request)

    def crash(self, request: bytes, call: Call) -> bytes:
        raise ValueError(SECRET)

    async def crash_later(self, request: bytes, call: Call) -> bytes:
        await asyncio.sleep(0)
        raise ValueError(SECRET)

    async def hang(self, request: bytes, call: Call) -> bytes:
        """Never returns; records when it began and when it was cancelled, under the request's name."""
        await self._hang(request.decode())
        return b""

    # ---- streaming

    async def chat(self, stream: MessageStream, call: Call) -> None:
        while (message := await stream.receive()) is not None:
            stream.send(message)

    async def count(self, stream: MessageStream, call: Call) -> None:
        """Sends messages 0, 1, 2, …; the one request says how many, and of how many bytes."""
        number, size = (int(word) for word in (await _only(stream)).split())
        for index in range(number):
            if stream.full:
                await stream.drain()
            stream.send((b"%d" % index).ljust(size))

    async def collect(self, stream: MessageStream, call: Call) -> None:
        """Responds with the lengths of all messages, once the client has ended its side."""
        lengths = []
        while (message := await stream.receive()) is not None:
            lengths.append(len(message))
        stream.send(json.dumps(lengths).encode())

    async def stream_call(self, stream: MessageStream, call: Call) -> None:
        stream.send(_described(call))

    async def stream_fail(self, stream: MessageStream, call: Call) -> None:
        """Sends a message, then fails with the code and text in the request."""
        request = await _only(stream)
        stream.send(b"first")
        raise _error(request)

    async def stream_crash(self, stream: MessageStream, call: Call) -> None:
        stream.send(b"first")
        raise ValueError(SECRET)

    async def stream_hang(self, stream: MessageStream, call: Call) -> None:
        name = (await _only(stream)).decode()
        stream.send(b"begun")
        await self._hang(name)

    async def pour(self, stream: MessageStream, call: Call) -> None:
        """Sends 64 KiB messages for as long as the client accepts them, and counts them under a name."""
        name = (await _only(stream)).decode()
        self._seen.sent[name] = 0
        try:
            while True:
                if stream.full:
                    self._seen[f"{name} full"].set()
                    await stream.drain()
                stream.send(bytes(65536))
                self._seen.sent[name] += 1
        finally:
            self._seen[f"{name} cancelled"].set()

    async def ignore(self, stream: MessageStream, call: Call) -> None:
        """Reads the name and nothing more."""
        await self._hang((await _only(stream)).decode())

    async def _hang(self, name: str) -> None:
        self._seen[f"{name} begun"].set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self._seen[f"{name} cancelled"].set()
            raise


async def _only(stream: MessageStream) -> bytes:
    message = await stream.receive()
    assert message is not None
    return message


def _described(call: Call) -> bytes:
    left = None if call.deadline is None else call.deadline - asyncio.get_running_loop().time()
    return json.dumps(
        {"method": call.method, "peer": call.peer, "left": left, "metadata": dict(call.metadata)}
    ).encode()


def _error(request: bytes) -> RpcError:
    code, _, text = request.decode().partition(" ")
    return RpcError(Code(int(code)), text)
