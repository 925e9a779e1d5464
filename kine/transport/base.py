"""The interface between gRPC transports and the handlers they serve.

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


# The status that a client gets for an unexpected exception in a handler; the details are only logged.
INTERNAL_ERROR = RpcError(Code.INTERNAL, "internal error")


def unknown_method(path: str, known: Iterable[str]) -> RpcError:
    """The UNIMPLEMENTED error for a path without a route, in grpc-go's words, which clients may match."""
    service, slash, method = path.removeprefix("/").rpartition("/")
    if not slash:
        return RpcError(Code.UNIMPLEMENTED, f"malformed method name: {path!r}")
    if any(route.startswith(f"/{service}/") for route in known):
        return RpcError(Code.UNIMPLEMENTED, f"unknown method {method} for service {service}")
    return RpcError(Code.UNIMPLEMENTED, f"unknown service {service}")


@dataclass(slots=True)
class Call:
    """A call's context: everything that a handler gets apart from the request.

    `metadata` is keyed by lower-case name. Values of a repeated name are joined by a comma, and the value
    of a name that ends in `-bin` is base64, as on the wire. It includes `:authority`, the requested host,
    if the transport provides it.
    """

    method: str
    peer: str = ""  # "ipv4:127.0.0.1:4711", "ipv6:[::1]:4711" or "unix:"
    deadline: float | None = None  # event-loop time in seconds; None: the client set none
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Waits until a response of so many bytes may be built, so that many large responses requested at once
    # are not all in memory at once. None if the transport has no such limit.
    room: Callable[[int], Awaitable[None]] | None = None
    # The same for a response that takes time to build: counts the bytes as queued until the context exits.
    hold: Callable[[int], AbstractAsyncContextManager[None]] | None = None
    account: ByteAccount | None = (
        None  # of the call's connection: calls with the same one come from one client
    )


def too_much_kept(what: str) -> RpcError:
    """The error for one more open `what` than the budget allows: see `kine.transport.byte_budget`."""
    return RpcError(
        Code.RESOURCE_EXHAUSTED,
        f"too many {what} are open, by this client or by all: close some, or raise --max-queued-bytes",
    )


# etcd adds this to its request limit for gRPC's framing and the rest of a message (server/config,
# grpcOverheadBytes).
GRPC_OVERHEAD_BYTES = 512 * 1024

SMALL = 1024  # bytes up to which a message is covered by the fixed cost of its stream

HIGH_WATER = 1024 * 1024  # bytes queued on one stream before its producer should pause
LOW_WATER = 256 * 1024  # and below which it resumes


class MessageStream(Protocol):
    """The server's end of a streaming call.

    The transport cancels the handler's task when the client resets the stream or disconnects; sends
    after that are dropped. Returning from the handler ends the stream with OK, raising `RpcError` with
    its status.
    """

    async def receive(self) -> bytes | None:
        """The client's next message, or None once it has half-closed. Raises RpcError.

        A large message counts as kept for its client until the next call of `receive`, by when the
        handler must have dropped it.
        """

    def release_received(self) -> None:
        """Stops counting the last message, which the handler has dropped, before the next `receive`."""

    def send(self, message: bytes) -> None:
        """Queues one message; never waits. A producer of much data checks `full` first."""

    @property
    def full(self) -> bool:
        """True while more than `HIGH_WATER` bytes are queued, or its connection's account is over."""

    async def drain(self) -> None:
        """Returns once the queue is below `LOW_WATER` and the account has room, or the call is over.

        Other producers may have filled it again before the caller runs: check `full` again.
        """


class Pieces:
    """A large response as a sequence of byte strings, sent without a join. Responses may share the pieces."""

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    def joined(self) -> bytes:
        return b"".join(self.parts)


Answer = bytes | Pieces

# A unary handler whose response is ready returns it directly, without a task or an await. A read served
# from memory does so, which is why it costs only microseconds.
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
    """The response to a plain HTTP request."""

    body: bytes
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"


# Handles a request that is not a gRPC call: method, target with its query, and the Accept header.
Pages = Callable[[str, str, str], Awaitable[Page]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the resources that one client or all clients may use. Sizes in bytes, times in seconds."""

    max_request_bytes: int = 2 * 1024 * 1024  # etcd: 1.5 MiB of request and 512 KiB of gRPC overhead
    max_concurrent_streams: int = 10_000  # per connection
    keepalive_min_interval: float = 5.0  # a client that pings more often gets GOAWAY too_many_pings
    keepalive_interval: float = 7200.0  # the server pings an idle connection after this
    keepalive_timeout: float = 20.0
    handshake_timeout: float = 10.0  # for the TLS handshake, and then for the first HTTP/2 frame
    max_queued_bytes: int = 256 * 1024 * 1024  # over all connections; one may hold a quarter of it
    max_connections: int = 10_000  # at the limit, closes the longest idle one, or refuses the new one
    drain_timeout: float = 20.0  # a client over budget that reads too little for so long is disconnected


class Server(Protocol):
    """A running transport."""

    @property
    def budget(self) -> ByteBudget:
        """The byte budget of its connections: responses that clients have not read yet."""

    @property
    def connected(self) -> int:
        """Number of client connections that are open or being opened."""

    @property
    def turned_away(self) -> int:
        """Number of connections refused, or closed to make room, because `max_connections` were open."""

    async def start(self) -> Sequence[Address]:
        """Binds and serves; returns the bound addresses, with the ports that the system chose.

        Raises OSError when an address cannot be bound.
        """

    async def stop(self, grace: float) -> None:
        """Refuses new calls, lets running ones end for up to `grace` seconds, then cancels them."""
