"""The etcdserverpb.Watch service: one session for each stream, with any number of watchers.

Responses and their order follow etcd (server/etcdserver/api/v3rpc/watch.go): "created" comes before the
watcher's first event, and a progress notice only after all events up to its revision.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter
from itertools import islice
from typing import Protocol

from kine.background_tasks import BackgroundTasks
from kine.etcd import errors
from kine.etcd.request_decoding import range_end
from kine.etcd.response_encoding import HeaderCache
from kine.fair_queue import FairTurns
from kine.proto import rpc_pb2 as rpc
from kine.store.store import Store
from kine.store.value_cache import varint
from kine.store.watcher import EncodedEvents, Watcher
from kine.transport.base import GRPC_OVERHEAD_BYTES, Call, MessageStream

log = logging.getLogger(__name__)

NO_ID = -1  # the watch id of responses for no watcher, or for all of a stream
_CREATED = b"\x18\x01"
_CANCELED = b"\x20\x01"
_FRAGMENT = b"\x38\x01"
_HEAD_BYTES = 56  # maximum bytes of a response without its events: header, watch id and `fragment`
_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"
_EMPTY_RANGE = "mvcc: watcher range is empty"
_WATCH_BYTES = 1024  # memory of a watch without its key and range
_TICKED = 500  # watchers visited per loop iteration


class Kept(Protocol):
    """The budget of memory kept for a connection; `kine.transport.byte_budget.ByteAccount` is one."""

    def keep(self, size: int) -> bool:
        """Counts bytes as kept; False if there is no room."""

    def give_up(self, size: int) -> None: ...


class WatchService:
    def __init__(
        self,
        store: Store,
        headers: HeaderCache,
        progress_interval: float,
        max_request_bytes: int,
        max_watches: int,
    ) -> None:
        self._store = store
        self._headers = headers
        self._progress_interval = progress_interval
        self._max_response_bytes = max_request_bytes + GRPC_OVERHEAD_BYTES  # fragment limit, as in etcd
        self.max_watches = max_watches  # per connection
        self.watches: Counter[object] = Counter()  # open watches by connection
        self.sessions: set[WatchStream] = set()
        self._turns = FairTurns()
        self.leaving = BackgroundTasks()  # remove the watchers of ended streams
        self._stopping = False

    async def watch(self, stream: MessageStream, call: Call) -> None:
        if self._stopping:
            raise errors.stopped()
        session = WatchStream(
            self, self._store, self._headers, stream, call.account, self._max_response_bytes
        )
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)

    async def run(self) -> None:
        """Sends progress notices to the watchers that requested them, until it is cancelled."""
        while True:
            await asyncio.sleep(self._progress_interval)
            for session in tuple(self.sessions):
                await session.tick(self._turns)

    def stop(self) -> None:
        """Ends every stream with a status that makes clients reconnect and resume at their revision."""
        self._stopping = True
        for session in tuple(self.sessions):
            session.end()


class WatchStream:
    """One Watch stream and its watchers. Implements `kine.store.watcher.EventSink`."""

    def __init__(
        self,
        service: WatchService,
        store: Store,
        headers: HeaderCache,
        stream: MessageStream,
        account: Kept | None,
        max_response_bytes: int,
    ) -> None:
        self._service = service
        self.client: object = account
        self._account = account
        self._store = store
        self._hub = store.hub
        self._headers = headers
        self._stream = stream
        self._max_response_bytes = max_response_bytes
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self.lagging = 0
        self._ahead: list[tuple[int, int]] = []  # a heap of watchers of future revisions: revision, id
        self._asked = False  # a progress request is pending
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            while self._handled(await self._stream.receive()):
                pass
            await asyncio.get_running_loop().create_future()  # half-closed: the client still receives events
        except asyncio.CancelledError:
            if self._ended:
                raise errors.stopped() from None
            raise
        finally:
            self._remove(_TICKED)
            if self._watchers:
                self._service.leaving.start(self._remove_in_turns())

    def _remove(self, most: int) -> None:
        for watcher in tuple(islice(self._watchers.values(), most)):
            self._forget(watcher)
            self._hub.remove(watcher)

    async def _remove_in_turns(self) -> None:
        while self._watchers:
            await self._store.turns.next(self.client)
            self._remove(_TICKED)

    def end(self) -> None:
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    # ---- requests

    def _handled(self, request: bytes | None) -> bool:
        """Handles one request; False at the end of the stream.

        A separate method, so that no variable keeps a message alive while the next is awaited.
        """
        if request is None:
            return False
        message = rpc.WatchRequest.FromString(request)
        kind = message.WhichOneof("request_union")
        if kind == "create_request":
            self._create(message.create_request)
        elif kind == "cancel_request":
            self._cancel(message.cancel_request.watch_id)
        elif kind == "progress_request":
            self._ask_for_progress()
        return True

    def _create(self, message: rpc.WatchCreateRequest) -> None:
        key = message.key or b"\0"
        end = range_end(message.range_end)
        refusal = ""
        if message.start_revision < 0:
            refusal = errors.COMPACTED
        elif end and key >= end:
            refusal = _EMPTY_RANGE
        elif message.watch_id and message.watch_id in self._watchers:
            refusal = _DUPLICATE_ID
        elif self._service.watches[self.client] >= self._service.max_watches:
            refusal = errors.too_many_watches(self._service.max_watches)
        elif self._account is not None and not self._account.keep(_bytes_of(key, end)):
            refusal = errors.no_room_for_watch()
        if refusal:
            reason = refusal.encode()
            self._send(NO_ID, _CREATED + _CANCELED + b"\x32" + varint(len(reason)) + reason)
            return
        watcher = Watcher(
            message.watch_id or self._free_id(),
            key,
            end,
            self,
            message.start_revision,
            message.start_revision,
            no_put=rpc.WatchCreateRequest.NOPUT in message.filters,
            no_delete=rpc.WatchCreateRequest.NODELETE in message.filters,
            prev_kv=message.prev_kv,
            fragment=message.fragment,
            progress=message.progress_notify,
        )
        if message.fragment:
            watcher.answer_bytes = self._max_response_bytes - _HEAD_BYTES
        self._watchers[watcher.id] = watcher
        self._service.watches[self.client] += 1
        if watcher.start > self._store.index.revision:
            self._forget_cancelled()
            heapq.heappush(self._ahead, (watcher.start, watcher.id))
        self._send(watcher.id, _CREATED)
        self._hub.add(watcher)

    def _forget_cancelled(self) -> None:
        if len(self._ahead) > 2 * len(self._watchers):
            starts = ((start, self._watchers.get(watch_id)) for start, watch_id in self._ahead)
            self._ahead = [(start, each.id) for start, each in starts if each and each.start == start]
            heapq.heapify(self._ahead)

    def _free_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _cancel(self, watch_id: int) -> None:
        watcher = self._watchers.get(watch_id)
        if watcher is not None:
            self._forget(watcher)
            self._hub.remove(watcher)
            self._send(watch_id, _CANCELED)

    def _forget(self, watcher: Watcher) -> None:
        if self._watchers.pop(watcher.id, None) is None:
            return
        if self._account is not None:
            self._account.give_up(_bytes_of(watcher.key, watcher.end))
        counts = self._service.watches
        counts[self.client] -= 1
        if not counts[self.client]:
            del counts[self.client]

    def _ask_for_progress(self) -> None:
        """Schedules one notice for all progress requests of this loop iteration, as all would be the same."""
        if not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._progress_of_all)

    def _progress_of_all(self) -> None:
        """Sends one notice for the whole stream; none while any of its watchers is behind."""
        if not self._hub.told(self.client, self._progress_of_all):
            return  # the hub calls again
        self._asked = False
        if self._watchers and not self.lagging and not self._awaits_the_future():
            self._send(NO_ID, b"")

    def _awaits_the_future(self) -> bool:
        """True if a watcher starts at a future revision: a notice would report an earlier one."""
        ahead, revision = self._ahead, self._store.index.revision
        while ahead:
            start, watch_id = ahead[0]
            watcher = self._watchers.get(watch_id)
            if start > revision and watcher is not None and watcher.start == start:
                return True
            heapq.heappop(ahead)
        return False

    async def tick(self, turns: FairTurns) -> None:
        for count, watcher in enumerate(tuple(self._watchers.values()), 1):
            if self.full:  # no notices for a client that does not read
                return
            if watcher.progress and not watcher.busy and self._hub.in_step(watcher):
                self._send(watcher.id, b"")
            watcher.busy = False
            if not count % _TICKED:
                await turns.next()

    # ---- responses

    @property
    def full(self) -> bool:
        return self._stream.full

    async def drain(self) -> None:
        await self._stream.drain()

    def events(self, watcher: Watcher, revision: int, events: EncodedEvents) -> None:
        head = self._head(watcher.id, revision)
        if not watcher.fragment or len(head) + len(events.joined) < self._max_response_bytes:
            self._stream.send(head + events.joined)
            return
        block: list[bytes] = []
        size = len(head) + len(_FRAGMENT)
        for event in events.framed:
            if block and size + len(event) >= self._max_response_bytes:
                self._stream.send(b"".join((head, _FRAGMENT, *block)))
                block, size = [], len(head) + len(_FRAGMENT)
            block.append(event)
            size += len(event)
        self._stream.send(b"".join((head, *block)))

    def compacted(self, watcher: Watcher, compact_revision: int) -> None:
        self._forget(watcher)
        self._stream.send(self._head(watcher.id, 0) + _CANCELED + b"\x28" + varint(compact_revision))

    def failed(self) -> None:
        self.end()

    def _send(self, watch_id: int, rest: bytes) -> None:
        self._stream.send(self._head(watch_id, self._store.index.revision) + rest)

    def _head(self, watch_id: int, revision: int) -> bytes:
        head = self._headers.at(revision)
        return head + b"\x10" + varint(watch_id) if watch_id else head


def _bytes_of(key: bytes, end: bytes | None) -> int:
    return _WATCH_BYTES + len(key) + len(end or b"")
