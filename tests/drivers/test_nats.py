"""Behaviour specific to NATS: Go kine's messages, bounded history, batches, a bucket that is full or gone."""

from __future__ import annotations

import asyncio
import json
import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from kine.drivers.base import Log, LogTail, NoSpaceError, UnavailableError
from kine.drivers.nats import s2, subjects
from kine.drivers.nats.append import Appender, Publication
from kine.drivers.nats.failures import LostError
from kine.drivers.nats.log import NatsLog
from kine.drivers.nats.stream import JetStreamStream
from tests.databases.nats import Nats
from tests.databases.proxy import Proxy
from tests.drivers.conftest import OpenLog
from tests.drivers.driver_databases import NatsPlace
from tests.drivers.row_shorthand import all_rows, created, deleted, updated, write

PATIENCE = 60.0  # seconds


class GoKine:
    """Publishes the messages that Go kine 0.16.4 publishes."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        prev: int = 0,
        create: int = 0,
        lease: int = 0,
        delete: bool = False,
    ) -> int:
        record = {
            "KV": {
                "Key": key.decode(), "Value": b64encode(value).decode(), "Version": 0,
                "CreateRevision": create, "ModRevision": 0, "Lease": lease,
            },
            "PrevRevision": prev, "Create": not create, "Delete": delete,
        }  # fmt: skip
        return await self.publish(key, s2.compress(json.dumps(record).encode()), {})

    async def delete(self, key: bytes, prev: int, create: int) -> int:
        tombstone = await self.put(key, b"", prev=prev, create=create, delete=True)
        await self.publish(key, b"", {"KV-Operation": "DEL"})
        return tombstone

    async def publish(self, key: bytes, data: bytes, headers: dict[str, str]) -> int:
        subject = f"$KV.{self._bucket}.{subjects.encode(key)}"
        answer = await self._client.request(subject, data, 5, headers=headers or None)
        return int(json.loads(answer.data)["seq"])

    async def api(self, name: str, /, **body: object) -> dict[str, object]:
        answer = await self._client.request(f"$JS.API.{name}", json.dumps(body).encode() if body else b"", 5)
        return dict(json.loads(answer.data))


@pytest.fixture
def place(nats_server: Nats) -> NatsPlace:
    return NatsPlace(nats_server)


@pytest.fixture
async def go(place: NatsPlace, log: Log) -> AsyncIterator[GoKine]:
    client = Client()
    await client.connect([f"nats://127.0.0.1:{place.server.port}"])
    yield GoKine(client, place.bucket)
    await client.close()


async def test_rows_of_go_kine_are_read(log: Log, go: GoKine) -> None:
    first = await go.put(b"/a", b"A", lease=30)
    second = await go.put(b"/a", b"B", prev=first, create=first)
    third = await go.delete(b"/a", second, first)
    made, changed, gone = await all_rows(log)
    assert (made.id, made.created, made.ttl, made.lease, made.value) == (first, True, 30, 0, b"A")
    assert (changed.create_revision, changed.prev_revision, changed.value) == (first, first, b"B")
    assert (gone.id, gone.deleted, gone.prev_revision) == (third, True, second)


async def test_a_key_go_kine_deleted_can_be_created(log: Log, go: GoKine) -> None:
    first = await go.put(b"/a", b"A")
    tombstone = await go.delete(b"/a", first, first)
    await all_rows(log)
    [ids] = await log.append([write(created(b"/a", prev=tombstone))], await log.newest())
    assert ids is not None


async def test_a_bucket_that_ends_with_go_kines_marker_is_whole(
    log: Log, go: GoKine, place: NatsPlace, open_log: OpenLog
) -> None:
    first = await go.put(b"/a", b"A")
    tombstone = await go.delete(b"/a", first, first)
    again = await open_log(place)
    assert [row.id async for rows in again.load() for row in rows] == [first, tombstone]
    assert await again.tail(tombstone, 10) == LogTail([], tombstone + 1, 0)
    third = await go.put(b"/a", b"B", prev=tombstone)
    tail = await again.tail(tombstone, 10)
    assert ([row.id for row in tail.rows], tail.compact_revision) == ([third], 0)


async def test_a_change_by_go_kine_conflicts(log: Log, go: GoKine) -> None:
    await log.append([write(created(b"/a"))], 0)
    await go.put(b"/a", b"B", prev=1, create=1)
    outcome = await log.append([write(updated(b"/a", 1, 1)), write(created(b"/b"))], 1)
    assert outcome[0] is None
    assert outcome[1] is not None


async def test_our_deletion_is_a_marker_to_kv_clients(log: Log, place: NatsPlace, go: GoKine) -> None:
    await log.append([write(created(b"/a"))], 0)
    await log.append([write(deleted(b"/a", 1))], 1)
    told = await go.api(f"STREAM.MSG.GET.KV_{place.bucket}", seq=2)
    assert b"Nats-Marker-Reason: Remove" in b64decode(told["message"]["hdrs"])  # type: ignore[index]


async def test_history_that_was_dropped_counts_as_compacted_at_a_start(
    log: Log, place: NatsPlace, open_log: OpenLog
) -> None:
    await log.append([write(created(b"/still")), write(created(b"/hot"))], 0)
    for number in range(2, 15):
        await log.append([write(updated(b"/hot", number, 2))], number)
    again = await open_log(place)
    loaded = [row.id async for rows in again.load() for row in rows]
    assert loaded == [1, *range(6, 16)]
    assert (await again.tail(15, 10)).compact_revision == 6


async def test_a_full_history_from_which_nothing_was_dropped_is_no_compaction(
    log: Log, place: NatsPlace, open_log: OpenLog
) -> None:
    await log.append([write(created(b"/hot"))], 0)
    for number in range(1, 10):
        await log.append([write(updated(b"/hot", number, 1))], number)
    again = await open_log(place)
    assert [row.id async for rows in again.load() for row in rows] == list(range(1, 11))
    assert (await again.tail(10, 10)).compact_revision == 0


async def test_rows_dropped_before_they_were_read_are_told(log: Log) -> None:
    await log.append([write(created(b"/hot"))], 0)
    for number in range(1, 20):
        await log.append([write(updated(b"/hot", number, 1))], number)
    tail = await log.tail(1, 100)
    assert tail.compact_revision == 20


async def test_a_value_that_was_dropped_is_told(log: Log) -> None:
    await log.append([write(created(b"/hot"))], 0)
    for number in range(1, 20):
        await log.append([write(updated(b"/hot", number, 1))], number)
    assert await log.values([3]) == {}
    assert await log.compact_revision() == 20


async def test_batches_are_allowed_only_while_needed(place: NatsPlace, open_log: OpenLog, go: GoKine) -> None:
    log = await open_log(place)
    await log.append([write(created(b"/a"), created(b"/b"))], 0)
    told = await go.api(f"STREAM.INFO.KV_{place.bucket}")
    assert told["config"]["allow_atomic"] is True  # type: ignore[index]
    await log.close()
    told = await go.api(f"STREAM.INFO.KV_{place.bucket}")
    assert not told["config"].get("allow_atomic")  # type: ignore[attr-defined]


async def test_a_stream_that_is_full_takes_writes_again_after_compaction(
    log: Log, place: NatsPlace, go: GoKine
) -> None:
    config = (await go.api(f"STREAM.INFO.KV_{place.bucket}"))["config"]
    await go.api(f"STREAM.UPDATE.KV_{place.bucket}", **{**config, "max_bytes": 200_000})  # type: ignore[dict-item]
    await log.append([write(created(b"/a", os.urandom(20_000)))], 0)
    last = 1

    async def fill() -> None:
        nonlocal last
        while last < 50:
            await log.append([write(updated(b"/a", last, 1, os.urandom(20_000)))], last)
            last += 1

    with pytest.raises(NoSpaceError):
        await fill()
    await log.compact(last, [])
    assert (await log.append([write(updated(b"/a", last, 1))], last))[0] is not None


async def test_a_bucket_that_was_deleted_is_told(log: Log, place: NatsPlace, go: GoKine) -> None:
    await log.append([write(created(b"/a"))], 0)
    await go.api(f"STREAM.DELETE.KV_{place.bucket}")
    with pytest.raises(UnavailableError, match="does not exist any more"):
        await log.newest()
    with pytest.raises(UnavailableError):
        await log.append([write(created(b"/b"), guarded=True)], 1)


async def test_a_compaction_that_fails_in_many_places_tells_one_reason(
    log: Log, place: NatsPlace, go: GoKine
) -> None:
    """As on a full disk, where the removal of every key fails."""
    assert isinstance(log, NatsLog)
    await go.api(f"STREAM.DELETE.KV_{place.bucket}")
    superseded = {f"key{number}": (5, False, True) for number in range(3)}
    with pytest.raises(UnavailableError, match="does not exist any more"):
        await log._remove(superseded, 6, deletions=True)


async def test_a_question_that_is_not_answered_denies_no_write_of_its_group(
    place: NatsPlace, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write lands, the other conflicts, and the query for the reason fails: it is decided again."""
    # The query is redirected to another subject, whose subscriber never responds.
    question, elsewhere = (
        f"$JS.API.STREAM.MSG.GET.KV_{place.bucket}",
        f"$XX.API.STREAM.MSG.GET.KV_{place.bucket}",
    )
    silent = Client()
    await silent.connect([f"nats://127.0.0.1:{place.server.port}"])
    asked = await silent.subscribe(elsewhere)
    await silent.flush()
    async with Proxy(place.server.port) as proxy:
        log = await open_log(place, port=proxy.port)
        await log.append([write(created(b"/taken"))], 0)

        proxy.rename = (question.encode(), elsewhere.encode())
        monkeypatch.setattr("kine.drivers.nats.client._TIMEOUT", 0.5)
        landed, conflict = await log.append([write(created(b"/new")), write(created(b"/taken"))], 1)

        assert (await asked.next_msg(PATIENCE)).reply
        assert list(landed or ()) == [2]
        assert conflict is None
        await log.close()
    await silent.close()


async def test_a_write_whose_answer_is_lost_is_not_denied_by_a_question_that_is(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append([write(created(b"/a"))], 0)
    publish, answer = Appender._publish, JetStreamStream.get
    told = iter((0, 1))

    async def unheard(self: Appender, one: Publication, extra: dict[str, str]) -> asyncio.Future[Msg]:
        """Publishes the write, and loses the first acknowledgement."""
        sent = await publish(self, one, extra)
        if next(told, 1):
            return sent
        await sent
        lost: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        lost.set_exception(LostError())
        return lost

    failures = iter((None, LostError()))

    async def sometimes(self: JetStreamStream, **query: object) -> object:
        """First finds nothing, then fails, and later queries the server."""
        if (failure := next(failures, answer)) is answer:
            return await answer(self, **query)
        if failure is not None:
            raise failure
        return None

    monkeypatch.setattr(Appender, "_publish", unheard)
    monkeypatch.setattr(JetStreamStream, "get", sometimes)
    [ids] = await log.append([write(updated(b"/a", 1, 1))], 1)

    assert list(ids or ()) == [2]
