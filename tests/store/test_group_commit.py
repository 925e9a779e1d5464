"""Group commit: several requests committed at once, and watchers that receive several rows at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import patch

import pytest

from kine.drivers.memory import _Rows
from kine.proto import rpc_pb2 as pb
from kine.store import write_queue
from kine.store.store import StoreSettings
from kine.transport.base import Code, RpcError
from tests.in_process_server import Held, Instance, running, until, within

A, B, C, D = b"/t/a", b"/t/b", b"/t/c", b"/t/d"
EVERY = {"key": b"/t/", "range_end": b"/t0"}


@pytest.fixture
async def log() -> Held:
    return Held(_Rows())


@pytest.fixture
async def kine(log: Held) -> AsyncIterator[Instance]:
    async with running(log) as instance:
        yield instance


def put(key: bytes, value: bytes = b"value") -> pb.PutRequest:
    return pb.PutRequest(key=key, value=value)


def create(key: bytes, value: bytes = b"value") -> pb.TxnRequest:
    """Creates a key as Kubernetes does."""
    return pb.TxnRequest(
        compare=[pb.Compare(key=key, target=pb.Compare.MOD, mod_revision=0)],
        success=[pb.RequestOp(request_put=put(key, value))],
    )


async def put_in_one_group(kine: Instance, *keys: bytes) -> None:
    groups: list[int] = []
    with patch.object(kine.store.writer, "_observe", groups.append):
        await kine.together(*map(put, keys))
    assert groups == [len(keys)]


async def keys(kine: Instance) -> list[bytes]:
    return [kv.key for kv in (await kine.get(**EVERY)).kvs]


# ---- watchers


@pytest.mark.parametrize("prev_kv", [False, True])
async def test_a_slow_watcher_gets_every_event_of_a_group(kine: Instance, prev_kv: bool) -> None:
    stream = kine.watch()
    stream.create(**EVERY, prev_kv=prev_kv)
    assert (await stream.next()).created
    stream.fill()
    await put_in_one_group(kine, A, B, C)
    stream.empty()
    assert [event.kv.key for event in await stream.events(3)] == [A, B, C]


async def test_a_watcher_gets_every_event_of_a_group_that_is_not_cached_any_more() -> None:
    """The cache is too small for the group: its values are read from the database."""
    async with running("memory://", StoreSettings(value_cache_bytes=1)) as kine:
        stream = kine.watch()
        stream.create(**EVERY)
        assert (await stream.next()).created
        await put_in_one_group(kine, A, B, C)
        assert [event.kv.key for event in await stream.events(3)] == [A, B, C]


async def test_a_watcher_of_the_future_begins_in_the_midst_of_a_group(kine: Instance) -> None:
    now = await kine.put(D)
    stream = kine.watch()
    stream.create(**EVERY, start_revision=now + 2)
    assert (await stream.next()).created
    await put_in_one_group(kine, A, B, C)
    await kine.put(D)
    got = [(event.kv.key, event.kv.mod_revision) for event in await stream.events(3)]
    assert got == [(B, now + 2), (C, now + 3), (D, now + 4)]


async def test_watchers_of_one_range_begin_each_where_it_asked(kine: Instance) -> None:
    """They share encoded events; a watcher that starts later must not get the earlier ones."""
    now = await kine.put(D)
    streams = [kine.watch() for _ in range(4)]
    for stream, later in zip(streams, (0, 2, 3, 0), strict=True):
        stream.create(**EVERY, start_revision=later and now + later)
        assert (await stream.next()).created
    await put_in_one_group(kine, A, B, C)
    await kine.put(D)
    got = [
        [event.kv.key for event in await stream.events(count)]
        for stream, count in zip(streams, (4, 3, 2, 4), strict=True)
    ]
    assert got == [[A, B, C, D], [B, C, D], [C, D], [A, B, C, D]]


async def test_a_watcher_of_the_future_that_is_slow_begins_there_too(kine: Instance) -> None:
    now = await kine.put(D)
    stream = kine.watch()
    stream.create(**EVERY, start_revision=now + 2)
    assert (await stream.next()).created
    stream.fill()
    await put_in_one_group(kine, A, B, C)
    stream.empty()
    assert [event.kv.key for event in await stream.events(2)] == [B, C]


# ---- requests on keys that others of their group change


async def test_a_range_deletes_what_was_put_just_before_it(kine: Instance) -> None:
    await kine.put(A)
    put_b, deletion = await kine.together(put(B), pb.DeleteRangeRequest(**EVERY))
    assert deletion.deleted == 2
    assert deletion.header.revision > put_b.header.revision
    assert await keys(kine) == []


async def test_a_put_after_a_deletion_of_its_range_stays(kine: Instance) -> None:
    await kine.put(A)
    deletion, _ = await kine.together(pb.DeleteRangeRequest(**EVERY), put(A, b"new"))
    assert deletion.deleted == 1
    assert (await kine.get(A)).kvs[0].value == b"new"
    assert (await kine.get(A)).kvs[0].version == 1


async def test_a_compare_of_a_range_sees_what_was_put_just_before_it(kine: Instance) -> None:
    none_there = pb.TxnRequest(
        compare=[pb.Compare(**EVERY, target=pb.Compare.VERSION, version=0)],
        success=[pb.RequestOp(request_put=put(C))],
    )
    _, txn = await kine.together(put(A), none_there)
    assert not txn.succeeded
    assert await keys(kine) == [A]


async def test_of_two_creations_of_a_key_at_once_the_first_succeeds(kine: Instance) -> None:
    first, second, other = await kine.together(create(A, b"1"), create(A, b"2"), create(B))
    assert (first.succeeded, second.succeeded, other.succeeded) == (True, False, True)
    assert (await kine.get(A)).kvs[0].value == b"1"


async def test_each_put_of_a_key_that_is_put_twice_at_once_counts(kine: Instance) -> None:
    answers = await kine.together(put(A, b"1"), put(B), put(A, b"2"), put(A, b"3"))
    revisions = [answer.header.revision for answer in answers]
    assert len(set(revisions)) == 4
    kv = (await kine.get(A)).kvs[0]
    assert (kv.value, kv.version, kv.mod_revision) == (b"3", 3, max(revisions))


# ---- a queue that is full


@pytest.mark.parametrize(
    "request_", [put(C), create(C), pb.DeleteRangeRequest(key=A)], ids=["put", "create", "delete"]
)
async def test_a_write_that_the_queue_has_no_room_for_is_refused(
    log: Held, kine: Instance, request_: object
) -> None:
    begun, go_on = log.hold("append")
    first = asyncio.ensure_future(kine.call(put(A)))
    await within(begun.wait())
    with patch.object(write_queue, "MAX_QUEUE", 1):
        waiting = asyncio.ensure_future(kine.call(put(B)))
        await until(lambda: len(kine.store.writer) == 1)
        with pytest.raises(RpcError) as refusal:
            await within(kine.call(request_))
    assert refusal.value.code is Code.RESOURCE_EXHAUSTED
    assert refusal.value.message == "etcdserver: too many requests"
    go_on.set()
    await within(asyncio.gather(first, waiting))
    assert await keys(kine) == [A, B]


async def test_a_write_whose_client_has_gone_is_left_out(log: Held, kine: Instance) -> None:
    begun, go_on = log.hold("append")
    first = asyncio.ensure_future(kine.call(put(A)))
    await within(begun.wait())
    gone, stays = asyncio.ensure_future(kine.call(put(B))), asyncio.ensure_future(kine.call(put(C)))
    await until(lambda: len(kine.store.writer) == 2)
    gone.cancel()
    go_on.set()
    await within(asyncio.gather(first, stays))
    assert await keys(kine) == [A, C]


# ---- requests that are too large


def update(key: bytes, mod: int, value: bytes) -> pb.TxnRequest:
    made = create(key, value)
    made.compare[0].mod_revision = mod
    made.failure.add(request_range=pb.RangeRequest(key=key))
    return made


async def test_a_request_over_the_limit_is_refused_whatever_its_shape() -> None:
    async with running("memory://", request_bytes=1000) as kine:
        mod = await kine.put(A)
        large = b"x" * 1000
        txn = pb.TxnRequest(
            success=[pb.RequestOp(request_put=put(B)), pb.RequestOp(request_put=put(C, large))]
        )
        for request in (
            put(A, large),
            create(B, large),
            update(A, mod, large),
            txn,
            pb.DeleteRangeRequest(key=large),
        ):
            with pytest.raises(RpcError) as refusal:
                await kine.call(request)
            assert refusal.value.code is Code.INVALID_ARGUMENT
            assert refusal.value.message == "etcdserver: request is too large"
        assert await keys(kine) == [A]
        assert (await kine.call(create(B, b"x" * 900))).succeeded


# ---- answers that are too large


async def test_a_transaction_whose_single_keys_come_to_too_much_is_refused() -> None:
    async with running("memory://", answer_bytes=5000) as kine:
        for key in (A, B, C):
            await kine.put(key, b"x" * 2000)
        gets = [pb.RequestOp(request_range=pb.RangeRequest(key=key)) for key in (A, B, C)]
        assert len((await kine.call(pb.TxnRequest(success=gets[:2]))).responses) == 2
        with pytest.raises(RpcError) as refusal:
            await kine.call(pb.TxnRequest(success=gets))
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED


async def test_what_would_answer_too_much_writes_nothing() -> None:
    async with running("memory://", answer_bytes=5000) as kine:
        for key in (A, B, C):
            await kine.put(key, b"x" * 2000)
        ops = [pb.RequestOp(request_put=put(D)), pb.RequestOp(request_range=pb.RangeRequest(**EVERY))]
        with pytest.raises(RpcError) as refusal:
            await kine.call(pb.TxnRequest(success=ops))
        assert refusal.value.code is Code.RESOURCE_EXHAUSTED
        assert await keys(kine) == [A, B, C]
