"""The seam between a transport and the handlers it serves.

A transport turns connections into calls: request bytes in, response bytes out, metadata, deadlines and
status. It knows no message type. A handler is a plain function of bytes; it knows no connection. The
same table of routes is served by every transport.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kine.address import Address
    from kine.transport.byte_budget import ByteAccount, ByteBudget


class Code(IntEnum):
    """gRPC status codes (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends a call with a status other than OK. The text reaches the client as it is."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# All a client learns of a fault in a handler; the log has the rest.
INTERNAL_ERROR = RpcError(Code.INTERNAL, "internal error")


def unknown_method(path: str, known: Iterable[str]) -> RpcError:
    """The error for a path that has no route, in grpc-go's words: its callers tell the cases apart."""
    service, slash, method = path.removeprefix("/").rpartition("/")
    if not slash:
        return RpcError(Code.UNIMPLEMENTED, f"malformed method name: {path!r}")
    if any(route.startswith(f"/{service}/") for route in known):
        return RpcError(Code.UNIMPLEMENTED, f"unknown method {method} for service {service}")
    return RpcError(Code.UNIMPLEMENTED, f"unknown service {service}")


@dataclass(slots=True)
class Call:
    """What a handler may know of its call besides the request.

    `metadata` goes by lower-case name, values of a name that comes twice joined by a comma; a value of
    a name that ends in `-bin` is base64, as on the wire. Where the transport
    learns it, `:authority`, the host asked for, is there too.
    """

    method: str
    peer: str = ""  # "ipv4:127.0.0.1:4711", "ipv6:[::1]:4711" or "unix:"
    deadline: float | None = None  # event-loop time in seconds; None: the client set none
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Waits until an answer of so many bytes may be made: many large ones asked for at once would be in
    # memory at once. Where the transport has no such bound, it does not wait.
    room: Callable[[int], Awaitable[None]] | None = None
    # Likewise, and counts them as queued until it is left: for an answer that takes time to make.
    hold: Callable[[int], AbstractAsyncContextManager[None]] | None = None
    account: ByteAccount | None = (
        None  # of the call's connection: calls with the same one come from one client
    )


def too_much_kept(what: str) -> RpcError:
    """There is no room to keep one more of these for its client: see `kine.transport.byte_budget`."""
    return RpcError(
        Code.RESOURCE_EXHAUSTED,
        f"too many {what} are open, by this client or by all: close some, or raise --max-queued-bytes",
    )


# etcd leaves this much beside its request limit for gRPC's framing and the rest of a message
# (server/config, grpcOverheadBytes).
GRPC_OVERHEAD_BYTES = 512 * 1024

SMALL = 1024  # bytes of a message up to which it counts as a part of its stream

HIGH_WATER = 1024 * 1024  # bytes queued on one stream before its producer should pause
LOW_WATER = 256 * 1024  # and below which it goes on


class MessageStream(Protocol):
    """The server's end of a streaming call.

    The transport cancels the handler's task when the client resets the stream or disconnects; sends
    after that are dropped. Returning from the handler ends the stream with OK, raising `RpcError` with
    its status.
    """

    async def receive(self) -> bytes | None:
        """The client's next message, or None once it has half-closed. Raises RpcError.

        A large one counts as kept for its client until the next is asked for: by then nothing may hold it.
        """

    def release_received(self) -> None:
        """Nothing holds the last message any more, though no other is asked for yet."""

    def send(self, message: bytes) -> None:
        """Queues one message; never waits. A producer of much data looks at `full` first."""

    @property
    def full(self) -> bool:
        """True while more bytes are queued than `HIGH_WATER`, or its connection's account is over."""

    async def drain(self) -> None:
        """Returns once the queue is below `LOW_WATER` and the account has room, or the call is over.

        Others may have filled it again by the time the caller goes on: look at `full` again.
        """


class Pieces:
    """A long answer that is sent piece by piece as it is, without a join: others may hold the same pieces."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    def joined(self) -> bytes:
        return b"".join(self.parts)


Answer = bytes | Pieces

# A unary handler that has its answer at hand returns it without a task or an await: that is what a read
# from memory does, and what makes it cost microseconds.
UnaryHandler = Callable[[bytes, Call], Answer | Awaitable[Answer]]
StreamHandler = Callable[[MessageStream, Call], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Unary:
    handler: UnaryHandler


@dataclass(frozen=True, slots=True)
class Streaming:
    """Server-streaming and bidirectional calls alike: the first reads just one message."""

    handler: StreamHandler


Routes = Mapping[str, Unary | Streaming]  # by path: "/etcdserverpb.KV/Range"


@dataclass(frozen=True, slots=True)
class Page:
    """What a plain HTTP request is answered with."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


# Answers a request that is no gRPC call: method, target with its query, and the Accept header.
Pages = Callable[[str, str, str], Awaitable[Page]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep a client from costing more than its share. Sizes in bytes, times in seconds."""

    max_request_bytes: int = 2 * 1024 * 1024  # etcd: 1.5 MiB of request and 512 KiB of gRPC overhead
    max_concurrent_streams: int = 10_000  # in one connection
    keepalive_min_interval: float = 5.0  # a client that pings more often gets GOAWAY too_many_pings
    keepalive_interval: float = 7200.0  # we ping an idle connection after this
    keepalive_timeout: float = 20.0
    handshake_timeout: float = 10.0  # until TLS is agreed on, and until HTTP/2's first frame has come
    max_queued_bytes: int = 256 * 1024 * 1024  # over all connections; one may hold a quarter of it
    max_connections: int = 10_000  # at the bound the longest idle one makes room; without one, none is let in
    drain_timeout: float = 20.0  # a client over its budget that takes too little for so long is cut off


class Server(Protocol):
    """A running transport."""

    @property
    def budget(self) -> ByteBudget:
        """What its connections hold of answers that are not taken yet."""

    @property
    def connected(self) -> int:
        """Connections of clients that are open, or being opened."""

    @property
    def turned_away(self) -> int:
        """Connections that were refused, or closed to make room, as the most that may be were open."""

    async def start(self) -> Sequence[Address]:
        """Binds and serves; returns the addresses bound, with the ports that the system chose.

        Raises OSError when an address cannot be bound.
        """

    async def stop(self, grace: float) -> None:
        """Refuses new calls, lets running ones end for up to `grace` seconds, then cancels them."""
