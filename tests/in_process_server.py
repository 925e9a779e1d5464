"""In-process kine for tests: the handlers and their own store without a transport, bytes in and bytes out.

Several instances may share a database, `memory://NAME` included. A test controls what a transport or timing
would decide otherwise: when a stream is full, when an instance learns of the others' writes, when the
database continues with a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from itertools import count
from typing import Any

from kine import drivers
from kine.drivers.base import Log, Options
from kine.drivers.memory import MemoryLog, _Rows
from kine.etcd.routes import Bounds, Identity, Services, services
from kine.proto import rpc_pb2 as pb
from kine.store.store import Store, StoreSettings
from kine.transport.base import Call, Pieces, Unary
from kine.transport.byte_budget import ByteAccount, ByteBudget, PassiveClient

PATIENCE = 30.0  # seconds, for what happens without a request
LONG = 3600.0
_names = count(1)

METHODS: dict[type[Any], tuple[str, type[Any]]] = {
    pb.RangeRequest: ("KV/Range", pb.RangeResponse),
    pb.PutRequest: ("KV/Put", pb.PutResponse),
    pb.DeleteRangeRequest: ("KV/DeleteRange", pb.DeleteRangeResponse),
    pb.TxnRequest: ("KV/Txn", pb.TxnResponse),
    pb.CompactionRequest: ("KV/Compact", pb.CompactionResponse),
    pb.LeaseGrantRequest: ("Lease/LeaseGrant", pb.LeaseGrantResponse),
    pb.LeaseRevokeRequest: ("Lease/LeaseRevoke", pb.LeaseRevokeResponse),
    pb.LeaseTimeToLiveRequest: ("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveResponse),
    pb.LeaseLeasesRequest: ("Lease/LeaseLeases", pb.LeaseLeasesResponse),
}


class Pipe:
    """Both ends of a stream: see `kine.transport.base.MessageStream`. The test sets whether it is full."""

    def __init__(self) -> None:
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    # ---- the server's end

    async def receive(self) -> bytes | None:
        return await self._requests.get()

    def release_received(self) -> None:
        pass

    def send(self, message: bytes) -> None:
        self._answers.put_nowait(message)

    @property
    def full(self) -> bool:
        return not self._room.is_set()

    async def drain(self) -> None:
        await self._room.wait()

    # ---- the test's end

    def fill(self) -> None:
        self._room.clear()

    def empty(self) -> None:
        self._room.set()

    def ask(self, request: Any) -> None:
        self._requests.put_nowait(request.SerializeToString())

    async def answer(self, seconds: float = PATIENCE) -> bytes:
        return await asyncio.wait_for(self._answers.get(), seconds)

    def waiting(self) -> list[bytes]:
        return [self._answers.get_nowait() for _ in range(self._answers.qsize())]


class Watching(Pipe):
    """The Watch call, with methods for the requests a client sends on it."""

    def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> None:
        create = pb.WatchCreateRequest(key=key, range_end=range_end, **fields)
        self.ask(pb.WatchRequest(create_request=create))

    def cancel(self, watch_id: int) -> None:
        self.ask(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.ask(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    async def next(self, seconds: float = PATIENCE) -> pb.WatchResponse:
        return pb.WatchResponse.FromString(await self.answer(seconds))

    def all(self) -> list[pb.WatchResponse]:
        return [pb.WatchResponse.FromString(answer) for answer in self.waiting()]

    async def events(self, number: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < number:
            found += (await self.next()).events
        return found


class Instance:
    def __init__(self, log: Log, store: Store, served: Services) -> None:
        self.log = log
        self.store = store
        self.served = served
        self._streams: list[asyncio.Task[None]] = []
        self._budget = ByteBudget(2**30)
        self._accounts: dict[str, ByteAccount] = {}

    async def call(self, request: Any) -> Any:
        """Returns the response. Raises `kine.transport.base.RpcError`."""
        path, kind = METHODS[type(request)]
        route = self.served.routes[f"/etcdserverpb.{path}"]
        assert isinstance(route, Unary)
        answer = route.handler(request.SerializeToString(), Call(path))
        if isawaitable(answer):
            answer = await answer
        return kind.FromString(answer.joined() if isinstance(answer, Pieces) else answer)

    async def together(self, *requests: Any) -> list[Any]:
        """Responses to, or exceptions of, requests that the writer finds in its queue at the same time."""
        return await asyncio.gather(*map(self.call, requests), return_exceptions=True)

    async def put(self, key: bytes, value: bytes = b"value", **fields: Any) -> int:
        answer = await self.call(pb.PutRequest(key=key, value=value, **fields))
        return int(answer.header.revision)

    async def get(self, key: bytes, **fields: Any) -> pb.RangeResponse:
        return await self.call(pb.RangeRequest(key=key, **fields))  # type: ignore[no-any-return]

    def watch(self, client: str = "") -> Watching:
        """A watch stream of `client`, which shares turns with that client's others; "": of no client."""
        pipe = Watching()
        if client and client not in self._accounts:
            self._accounts[client] = self._budget.account(PassiveClient())
        work = self.served.watch.watch(pipe, Call("Watch/Watch", account=self._accounts.get(client)))
        self._streams.append(asyncio.ensure_future(work))
        return pipe

    async def close(self) -> None:
        if isinstance(self.log, Held):
            self.log.release()  # a failed test may have left it held
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        await self.store.close()
        await self.log.close()


async def start(
    where: str | Log,
    settings: StoreSettings | None = None,
    *,
    request_bytes: int = 1024 * 1024,
    answer_bytes: int = 64 * 1024 * 1024,
    watches: int = 1000,
) -> Instance:
    log = drivers.connect(where, Options()) if isinstance(where, str) else where
    await log.open()
    store = Store(log, settings or StoreSettings())
    await store.open()
    bounds = Bounds(request_bytes, answer_bytes, watches)
    return Instance(log, store, services(store, Identity(1, 1, "kine", "3.6.11", "http"), LONG, bounds))


@asynccontextmanager
async def running(
    where: str | Log, settings: StoreSettings | None = None, **bounds: int
) -> AsyncIterator[Instance]:
    instance = await start(where, settings, **bounds)
    try:
        yield instance
    finally:
        await instance.close()


def new_memory() -> str:
    """The endpoint of a new database that instances may share."""
    return f"memory://test-{next(_names)}"


class Deaf(MemoryLog):
    """An instance that gets no notifications of the others' writes: it must query the database."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__(rows)

    async def changed(self, after: int) -> None:
        await asyncio.Event().wait()


class Far(Deaf):
    """Its newest revision cannot be peeked at: each answer takes a query."""

    def peek(self) -> int | None:
        return None

    def peek_recorded_compaction(self) -> int | None:
        return None


class Held(MemoryLog):
    """A log whose methods block before the database executes them, as the test decides."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__(rows)
        self._gates: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    def hold(self, method: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Makes calls of this method wait: one event is set when the first arrives, the other lets it go."""
        gates = self._gates[method] = asyncio.Event(), asyncio.Event()
        return gates

    def release(self) -> None:
        for _, go_on in self._gates.values():
            go_on.set()

    async def _pass(self, method: str) -> None:
        if method in self._gates:
            come, go_on = self._gates[method]
            come.set()
            await go_on.wait()

    async def append(self, writes: Any, head: int) -> Any:
        await self._pass("append")
        return await super().append(writes, head)

    async def compact(self, revision: int, versions: Any) -> int:
        await self._pass("compact")
        return await super().compact(revision, versions)

    async def forget(self, lease_id: int) -> None:
        await self._pass("forget")
        await super().forget(lease_id)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110, what is waited for tells nobody
            await asyncio.sleep(0.001)


async def within(work: Awaitable[Any], seconds: float = PATIENCE) -> Any:
    return await asyncio.wait_for(work, seconds)
