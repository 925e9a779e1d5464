"""The `Log` in a JetStream KV bucket. A row is a message, and its revision is the message's sequence."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from nats.aio.msg import Msg

from kine.drivers.base import (
    PATIENCE,
    DriverError,
    InvalidKeyError,
    LeaseRecord,
    LogTail,
    NewRow,
    NoSpaceError,
    Outcome,
    Row,
    Size,
    UnavailableError,
    Write,
)
from kine.drivers.nats import subjects
from kine.drivers.nats.append import Appender
from kine.drivers.nats.client import Answer, NatsClient
from kine.drivers.nats.embedded import EmbeddedServer
from kine.drivers.nats.endpoint import NatsEndpoint
from kine.drivers.nats.failures import LostError, NatsRefusedError, NoRespondersError
from kine.drivers.nats.metadata_bucket import Compaction, MetadataBucket
from kine.drivers.nats.read_rows import RowReader
from kine.drivers.nats.stream import JetStreamStream, answered, answered_in, last_sequence_of
from kine.drivers.reserved_row_names import COMPACT_REV_KEY, HEALTH_KEY
from kine.drivers.wait_for_database import until_open
from kine.futures import pass_on

log = logging.getLogger(__name__)
T = TypeVar("T")

_BETWEEN = 0.5  # seconds between attempts to connect
_POLL = 1.0  # seconds without a hint after which kine polls
_HINT_LASTS = 1.0  # seconds within which a published message should be stored
_ASSIST = 10.0  # seconds until another instance's compaction is taken for abandoned
_AT_ONCE = 16  # concurrent purges: the server runs them one by one, and a starting instance reads meanwhile
_PATIENCE = 30.0  # seconds for each step of a compaction
_OWN = (HEALTH_KEY, COMPACT_REV_KEY)  # in every bucket from the start


class NatsLog:
    """Implements `kine.drivers.base.Log`."""

    def __init__(
        self,
        endpoint: NatsEndpoint,
        max_request_bytes: int = 0,
        poll_interval: float = _POLL,
        patience: float = PATIENCE,
    ) -> None:
        self._endpoint = endpoint
        self._max_request_bytes = max_request_bytes
        self._poll_interval = min(_POLL, poll_interval)
        self._patience = patience
        self._server = EmbeddedServer(endpoint) if endpoint.embedded else None
        if self._server is not None and self._server.login:
            endpoint = _with_login(endpoint, self._server.login)
        self._client = NatsClient(endpoint)
        self._stream = JetStreamStream(self._client, endpoint.bucket)
        self._state = MetadataBucket(self._client, endpoint.bucket)
        self._reader = RowReader(self._stream, self._state)
        self._appender = Appender(self._stream, self._reader)
        self._hint = asyncio.Event()
        self._known = 0  # the highest sequence the stream is known to have reached
        self._lost = 0  # history before this is incomplete: a value was missing
        self._closed = False
        self.on_wait: Callable[[str], None] = lambda why: None

    # ---- from opening to closing

    async def open(self) -> None:
        if self._server is not None:
            await self._server.start()
        servers = self._endpoint.servers if self._server is None else (self._server.url,)
        await until_open(
            lambda: self._open(servers),
            UnavailableError,
            "NATS",
            between=_BETWEEN,
            patience=self._patience,
            on_wait=lambda why: self.on_wait(why),
        )

    async def _open(self, servers: Sequence[str]) -> None:
        if not self._client.connected:
            await self._client.connect(servers)
        endpoint = self._endpoint
        await answered(self._stream.ensure(endpoint.history, endpoint.replicas, "Holds kine key/values"))
        await answered(self._state.open(endpoint.replicas))
        kept = self._stream.config.get("max_msgs_per_subject")
        if kept != endpoint.history:
            log.warning("the bucket keeps %s revisions of a key, whatever revHistory says", kept)
        if (largest := self._appender.largest) < self._max_request_bytes * 4 // 3:
            log.warning(
                "this NATS server takes messages of %d bytes: values from about %d bytes on will be refused"
                " as too large; set its max_payload to 8MB",
                largest,
                largest * 3 // 4,
            )
        self._appender.atomic = bool(self._stream.config.get("allow_atomic"))
        self._client.on_reconnect = self._hint.set
        await self._client.subscribe(f"{self._stream.prefix}>", self._hinted)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._hint.set()
        try:
            async with asyncio.timeout(1.0):
                await self._appender.disallow_batches()
        except (DriverError, TimeoutError):
            pass  # Go kine will then refuse the bucket, as its settings differ
        await self._client.close()
        if self._server is not None:
            await self._server.stop()

    # ---- reading

    async def load(self, after: int = 0) -> AsyncIterator[list[Row]]:
        await self._settled()
        async for rows in self._reader.load(after):
            self._known = max(self._known, rows[-1].id)
            yield rows

    async def gone(self, names: Sequence[bytes]) -> set[bytes]:
        if not names:
            return set()
        present = await answered(self._stream.subjects())
        return {name for name in names if subjects.encode(name) not in present}

    async def compact_revision(self) -> int:
        return max((await self._settled()).revision, self._lost)

    def peek_recorded_compaction(self) -> int | None:
        return None

    async def recorded_compaction(self) -> int:
        return max((await self._timed("CompactRev", self._state.compaction_now())).revision, self._lost)

    def peek(self) -> int | None:
        return None

    def newest(self) -> Awaitable[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        start = time.perf_counter()

        def told(answer: Answer) -> None:
            if future.done():
                return
            self._took("Newest", start)
            if not isinstance(answer, Msg):
                future.set_exception(answer.translated())
            elif (newest := last_sequence_of(answer)) is None:
                pass_on(self._newest(), future)
            else:
                self._known = max(self._known, newest)
                future.set_result(newest)

        return future if self._stream.ask_last_sequence(told) else self._newest()

    async def _newest(self) -> int:
        newest = await self._timed("Newest", self._stream.last_sequence())
        self._known = max(self._known, newest)
        return newest

    async def tail(self, after: int, limit: int) -> LogTail:
        # Read before the rows: everything up to `known` must then be among them.
        known, compaction = await asyncio.gather(self.newest(), self._state.compaction())
        rows, head, missing = await self._timed("Tail", self._reader.after(after, limit, known))
        self._known = max(self._known, head)
        compacted = max(compaction.revision, self._reader.floor, self._lost)
        if missing:
            # The dropped messages have been replaced by newer ones up to now.
            compacted = max(compacted, await self.newest())
        return LogTail(rows, head, compacted)

    async def changed(self, after: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._hint.clear()
            if await self.newest() > after:
                return
            try:
                async with asyncio.timeout(self._poll_interval):
                    await self._hint.wait()
            except TimeoutError:
                continue
            # The hint comes when a message is published; it is stored a moment later, or refused.
            pause = 0.001
            until = loop.time() + _HINT_LASTS
            while loop.time() < until:
                if await self.newest() > after:
                    return
                await asyncio.sleep(pause)
                pause = min(0.1, pause * 2)

    async def _hinted(self, message: Msg) -> None:
        self._hint.set()

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        found = await self._timed("Values", self._reader.values(ids))
        if len(found) < len(ids):
            compacted = (await self._state.compaction()).revision
            if any(row_id > compacted for row_id in ids if row_id not in found and row_id <= self._known):
                # Newer revisions of the key have replaced it; the rest does not show which ones.
                self._lost = max(self._lost, self._known)
        return found

    # ---- writing

    async def append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        outcome = await self._timed("Insert", self._append(writes, head))
        if len(outcome) == 1 and isinstance(outcome[0], DriverError):
            raise outcome[0]
        for write, ids in zip(writes, outcome, strict=True):
            if ids is None or isinstance(ids, DriverError):
                continue
            self._known = max(self._known, ids[-1])
            for row, row_id in zip(write.rows, ids, strict=False):
                self._reader.last_of.pop(row.prev_revision, None)
                if not row.version and not row.deleted:
                    self._reader.uncounted.add(row_id)
        return outcome

    async def _append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        """Appends; in a full store deletions use the reserve, as they free space."""
        deleting = [all(row.deleted for row in write.rows) for write in writes]
        try:
            outcome = list(await self._appender.append(writes, head))
        except NoSpaceError:
            if not all(deleting) or not await self._state.release_reserve():
                raise
            return await self._appender.append(writes, head)
        refused = [
            place
            for place, found in enumerate(outcome)
            if deleting[place] and isinstance(found, NoSpaceError)
        ]
        if refused and await self._state.release_reserve():
            again = await self._appender.append([writes[place] for place in refused], head)
            for place, found in zip(refused, again, strict=True):
                outcome[place] = found
        elif not refused and not any(deleting):
            await self._state.keep_reserve()
        return outcome

    def check(self, row: NewRow) -> None:
        self._appender.check(row)

    async def compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        return await self._timed("Compact", self._compact(revision, versions))

    async def _compact(self, revision: int, versions: Sequence[tuple[int, int]]) -> int:
        while True:
            before = await answered_in(_PATIENCE, self._state.compaction)
            if before.revision >= revision:
                return before.revision
            doomed = await answered_in(_PATIENCE, partial(self._superseded, before, revision))
            intent = Compaction(revision, before.removed, before.sequence)
            try:
                await self._reader.counted(versions)
                now = await self._state.record(intent)
            except NoSpaceError:
                # Free space first, by removing superseded revisions only: no key changes.
                await self._remove(doomed, revision, deletions=False)
                await self._reader.counted(versions)
                now = await self._state.record(intent)
            if now is None:
                continue
            await self._remove(doomed, revision, deletions=True)
            await self._state.record(now._replace(removed=revision))
            self._reader.last_of = {row: last for row, last in self._reader.last_of.items() if row > revision}
            return revision

    async def _superseded(self, before: Compaction, revision: int) -> dict[str, tuple[int, bool, bool]]:
        return await self._reader.superseded(max(0, before.removed - 1), revision)

    async def _remove(
        self, doomed: dict[str, tuple[int, bool, bool]], revision: int, *, deletions: bool
    ) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def remove(subject: str, before: int) -> None:
            async with gate:
                await answered_in(_PATIENCE, partial(self._stream.purge, subject, before))

        try:
            async with asyncio.TaskGroup() as group:
                for subject, (last, deletion, older) in doomed.items():
                    if deletions and deletion and last < revision:
                        group.create_task(remove(subject, last + 1))
                    elif older:
                        group.create_task(remove(subject, last))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # all have the same cause

    async def _settled(self) -> Compaction:
        """The recorded compaction, once complete. An abandoned one is finished here."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ASSIST
        while not (found := await self._state.compaction()).done:
            if loop.time() > deadline:
                doomed = await self._superseded(found, found.revision)
                await self._remove(doomed, found.revision, deletions=True)
                await self._state.record(found._replace(removed=found.revision))
            else:
                await asyncio.sleep(0.1)
        return found

    async def advance(self, revision: int) -> None:
        await self._timed("Advance", self._advance(revision))

    async def _advance(self, revision: int) -> None:
        if await self.newest() < revision:
            async for rows in self._reader.load(0):
                if any(not row.deleted and row.name not in _OWN for row in rows):
                    raise DriverError(
                        "NATS leaves out revisions in a bucket without keys only:"
                        " name another bucket, or delete this one"
                    )
            await answered(self._stream.purge_before(revision + 1))
        await self._settled()
        before = await self._state.compaction()
        await self._state.record(Compaction(revision, revision, before.sequence))

    async def refused(self, rows: Iterable[Row]) -> dict[bytes, str]:
        found = {}
        for row in rows:
            try:
                self._appender.check(_placed(row))
            except InvalidKeyError as error:
                found[row.name] = str(error)
        return found

    async def place(self, rows: Sequence[Row]) -> None:
        writes = [Write((_placed(row),), False) for row in rows]
        if None in await self.append(writes, self._known):
            raise UnavailableError("another client writes to this bucket: stop it, and begin again")

    async def compacted(self) -> None:
        """Does nothing: the server reclaims space automatically."""

    # ---- leases

    async def leases(self) -> list[LeaseRecord]:
        return await self._state.leases()

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        return await self._state.lease(lease_id)

    async def grant(self, lease_id: int, ttl: int, renewals: int = 0) -> bool:
        return await self._state.grant(lease_id, ttl, renewals)

    async def renew(self, lease_ids: Sequence[int], renewals: int = 0) -> None:
        for lease_id in lease_ids:
            await self._state.renew(lease_id, renewals)

    async def expire(self, lease_id: int, renewals: int) -> bool:
        return await self._state.expire(lease_id, renewals)

    async def forget(self, lease_id: int) -> None:
        await self._state.forget(lease_id)

    # ---- maintenance

    async def size(self) -> Size:
        size = int((await self._stream.info())["state"]["bytes"])
        return Size(size, size)

    async def defragment(self) -> None:
        """Does nothing: the server compacts its files automatically."""

    def folder(self) -> str | None:
        return str(self._server.directory) if self._server is not None else None

    async def _timed(self, name: str, work: Awaitable[T]) -> T:
        start = time.perf_counter()
        try:
            return await work
        except (NatsRefusedError, LostError) as error:
            raise error.translated() from error
        except NoRespondersError as error:
            raise UnavailableError("NATS has no responder for the request") from error
        finally:
            self._took(name, start)

    def _took(self, name: str, start: float) -> None:
        took = time.perf_counter() - start
        if 0 < self._endpoint.slow <= took:
            log.info("slow NATS: %s took %.3f s", name, took)


def _placed(row: Row) -> NewRow:
    return NewRow(
        row.name, False, row.deleted, row.create_revision, 0, row.ttl, row.value, row.lease, row.version or 1
    )


def _with_login(endpoint: NatsEndpoint, login: dict[str, str]) -> NatsEndpoint:
    return replace(endpoint, login=login)
