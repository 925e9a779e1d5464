"""etcd API client for an endpoint: a database opened in this process, or an etcd server over the network."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from kine.proto import rpc_pb2 as rpc
from kine.transport.base import Call, Pieces, Streaming, Unary

if TYPE_CHECKING:
    from kine.config import Settings
    from kine.drivers.base import RestorableLog
    from kine.server import Backend

T = TypeVar("T")

# The target size of a page of keys. The size of the next values is not known, so the first page has few keys,
# and none has so many that the largest values would fill the memory.
_PAGE_BYTES = 4 * 1024 * 1024
_FIRST_KEYS, _MOST_KEYS = 16, 256
EVERY_KEY = b"\0"
_ADVICE = "; start it, or name a server that runs, or a database, with --endpoint"
# Written to the target etcd of a restore to advance its revision; deleted when all keys are there.
SCRATCH = b"\0kine restore"


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class EndpointClient:
    def __init__(self, source: Backend) -> None:
        self._source = source

    async def call(self, method: str, request: _Message, answer: type[T]) -> T:
        """Calls a unary method, such as `KV/Range`. Raises RpcError."""
        path = f"/etcdserverpb.{method}"
        route = self._source.routes[path]
        assert isinstance(route, Unary)
        found = route.handler(request.SerializeToString(), Call(path))
        message = await found if inspect.isawaitable(found) else found
        if isinstance(message, Pieces):
            message = message.joined()
        return cast("Any", answer).FromString(message)  # type: ignore[no-any-return]

    async def stream(self, method: str, request: _Message) -> AsyncGenerator[bytes, None]:
        """Yields the responses to a streaming call with one request; close it to end the call."""
        path = f"/etcdserverpb.{method}"
        route = self._source.routes[path]
        assert isinstance(route, Streaming)
        asked = _Asked(request.SerializeToString())
        handling = asyncio.ensure_future(route.handler(asked, Call(path)))
        try:
            while True:
                yield await asked.answers.get()
        finally:
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)

    async def revision(self) -> tuple[int, int]:
        """The current revision, and the number of keys at it."""
        request = rpc.RangeRequest(key=EVERY_KEY, range_end=EVERY_KEY, count_only=True)
        answer = await self.call("KV/Range", request, rpc.RangeResponse)
        return answer.header.revision, answer.count

    async def pages(self, revision: int) -> AsyncIterator[list[Any]]:
        """Yields all key-values at this revision, in key order."""
        key, limit = EVERY_KEY, _FIRST_KEYS
        while True:
            request = rpc.RangeRequest(key=key, range_end=EVERY_KEY, limit=limit, revision=revision)
            answer = await self.call("KV/Range", request, rpc.RangeResponse)
            if answer.kvs:
                yield list(answer.kvs)
            if not answer.more:
                return
            key = answer.kvs[-1].key + b"\0"
            large = answer.ByteSize() > _PAGE_BYTES
            limit = max(1, limit // 2) if large else min(_MOST_KEYS, limit * 2)

    async def ttl(self, item: Any) -> int:
        """The granted TTL of a key-value's lease, in seconds; 0 if the lease has expired."""
        request = rpc.LeaseTimeToLiveRequest(ID=item.lease)
        answer = await self.call("Lease/LeaseTimeToLive", request, rpc.LeaseTimeToLiveResponse)
        if answer.TTL >= 0:
            return answer.grantedTTL
        # A key that is there with an unknown lease is Go kine's, where the lease's id is its TTL.
        now = await self.call("KV/Range", rpc.RangeRequest(key=item.key), rpc.RangeResponse)
        lives = bool(now.kvs) and now.kvs[0].mod_revision == item.mod_revision
        return item.lease if lives else 0


class _Asked:
    """The `kine.transport.base.MessageStream` of such a call."""

    full = False

    def __init__(self, request: bytes) -> None:
        self._request: bytes | None = request
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def receive(self) -> bytes | None:
        if self._request is None:
            await asyncio.Event().wait()
        request, self._request = self._request, None
        return request

    def send(self, message: bytes) -> None:
        self.answers.put_nowait(message)

    def release_received(self) -> None:
        pass

    async def drain(self) -> None:
        pass


@asynccontextmanager
async def opened(settings: Settings, *, unfinished: bool = False) -> AsyncIterator[EndpointClient]:
    """Opens an endpoint. Raises DriverError, ValueError.

    Waits for a database for `settings.patience` seconds, and not at all for a server. `unfinished` also
    accepts a database in which a restore was interrupted.
    """
    from kine import drivers, remote
    from kine.flag_values import scheme
    from kine.server import Readiness, open_backend

    async with AsyncExitStack() as stack:
        if scheme(settings.endpoint) in drivers.REMOTE:
            etcd = remote.connect(settings.endpoint, settings.driver_options())
            stack.push_async_callback(etcd.close)
            await etcd.open(0, "the server", _ADVICE)
            stack.callback(etcd.stop)
            yield EndpointClient(etcd)
            return
        source = await open_backend(settings, stack, Readiness(), asyncio.Event(), unfinished=unfinished)
        assert source is not None  # the event is never set: Ctrl-C ends the command itself
        stack.callback(source.stop)
        yield EndpointClient(source)


async def check_there(settings: Settings) -> None:
    """Checks that a source database exists, as opening it would create it. Raises DriverError, ValueError."""
    from kine import drivers

    if drivers.can_inspect(settings.endpoint):
        async with drivers.inspect(settings.endpoint, settings.driver_options()) as view:
            if "kine" not in await view.names():
                raise ValueError("the database has no table kine; name kine's database")


@asynccontextmanager
async def restoring(settings: Settings) -> AsyncIterator[RestorableLog | None]:
    """The log of the endpoint's database, or None if it cannot restore rows as they are.

    Nothing else may use the database meanwhile.
    """
    from kine import drivers
    from kine.drivers.base import RestorableLog
    from kine.flag_values import scheme

    log = None
    if scheme(settings.endpoint) not in drivers.REMOTE:
        log = drivers.connect(settings.endpoint, settings.driver_options())
    if not isinstance(log, RestorableLog):
        yield None
        return
    try:
        await log.open()
        yield log
    finally:
        await log.close()
