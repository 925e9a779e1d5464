"""Cross-instance visibility: what an instance knows of the latest changes by another on its database."""

from __future__ import annotations

import asyncio

import pytest

from kine.drivers.base import Row
from kine.drivers.memory import _Rows
from kine.proto import rpc_pb2 as pb
from kine.store.compactor import Policy
from kine.store.store import StoreSettings
from kine.transport.base import RpcError
from tests.in_process_server import Deaf, Far, Held, Instance, running, until, within

KEY = b"/t/key"
EVERY = {"key": b"/t/", "range_end": b"/t0"}


async def until_applied(instance: Instance, revision: int) -> None:
    await until(lambda: instance.store.index.revision >= revision)


# ---- leases


async def test_time_to_live_shows_a_key_that_another_instance_has_just_put() -> None:
    rows = _Rows()
    async with running(Deaf(rows)) as here, running(Deaf(rows)) as there:
        lease = (await here.call(pb.LeaseGrantRequest(TTL=1000))).ID
        await there.put(KEY, lease=lease)
        answer = await here.call(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
        assert list(answer.keys) == [KEY]


async def test_a_key_that_another_instance_puts_while_its_lease_is_revoked_goes_with_it() -> None:
    rows = _Rows()
    log = Held(rows)
    async with running(log) as here, running(Held(rows)) as there:
        lease = (await here.call(pb.LeaseGrantRequest(TTL=1000))).ID
        begun, go_on = log.hold("forget")
        revoking = asyncio.ensure_future(here.call(pb.LeaseRevokeRequest(ID=lease)))
        await within(begun.wait())
        revision = await there.put(KEY, lease=lease)
        await until_applied(here, revision)
        go_on.set()
        await within(revoking)
        assert not (await here.get(KEY)).kvs
        assert not (await there.get(KEY)).kvs


async def test_a_key_that_is_applied_only_after_the_revocation_goes_too() -> None:
    """The other instance accepts it while the lease exists; this one learns of it after the revocation."""
    rows = _Rows()
    log = Held(rows)
    async with running(log) as here, running(Held(rows)) as there:
        lease = (await here.call(pb.LeaseGrantRequest(TTL=1000))).ID
        await there.store.leases.find(lease)
        await here.call(pb.LeaseRevokeRequest(ID=lease))
        rows.head += 1  # a row that was in flight
        rows.rows[rows.head] = Row(rows.head, KEY, True, False, rows.head, 0, 1000, b"late", lease, 0, False)
        rows.newest[KEY] = rows.head
        rows.tell()
        gone = rows.head + 1
        await until_applied(here, gone)
        assert not (await here.get(KEY)).kvs


# ---- reads and writes at once


async def test_a_read_sees_what_another_instance_has_committed() -> None:
    rows = _Rows()
    async with running(Deaf(rows)) as here, running(Deaf(rows)) as there:
        await here.put(KEY, b"here")
        await there.put(KEY, b"there")
        assert (await here.get(KEY)).kvs[0].value == b"there"
        assert (await here.get(KEY, serializable=True)).kvs[0].value == b"there"  # it has been applied now


async def test_a_group_behind_the_database_leaves_out_only_what_conflicts() -> None:
    rows = _Rows()
    async with running(Deaf(rows)) as here, running(Deaf(rows)) as there:
        mod = await here.put(KEY, b"1")
        await there.put(KEY, b"2")

        def update(key: bytes, revision: int) -> pb.TxnRequest:
            return pb.TxnRequest(
                compare=[pb.Compare(key=key, target=pb.Compare.MOD, mod_revision=revision)],
                success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=b"3"))],
                failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key))],
            )

        stale, created = await here.together(update(KEY, mod), update(KEY + b"2", 0))
        assert (stale.succeeded, created.succeeded) == (False, True)
        assert stale.responses[0].response_range.kvs[0].value == b"2"


# ---- a database that went back to an earlier state


async def test_counts_of_later_pages_are_of_the_database_that_is_there_now() -> None:
    rows = _Rows()
    async with running(Held(rows)) as kine:
        before = rows.head
        for number in range(6):
            await kine.put(KEY + b"%d" % number)
        revision = rows.head
        page = await kine.get(**EVERY, limit=2, revision=revision)
        assert (page.count, page.more) == (6, True)
        await kine.get(page.kvs[-1].key + b"\0", range_end=EVERY["range_end"], limit=2, revision=revision)

        # A failover to a replica that lacks them: the same revisions are given to other keys.
        for number in range(6):
            del rows.newest[KEY + b"%d" % number], rows.rows[before + 1 + number]
        rows.head = before
        await kine.store._tailer.rewind()
        for number in (0, 0, 1, 2, 3, 4):
            await kine.put(KEY + b"%d" % number, b"anew")
        assert rows.head == revision

        rest = await kine.get(
            page.kvs[-1].key + b"\0", range_end=EVERY["range_end"], limit=2, revision=revision
        )
        assert (rest.count, [kv.key for kv in rest.kvs]) == (3, [KEY + b"2", KEY + b"3"])


async def test_a_revision_that_is_given_again_shows_that_the_database_has_gone_back() -> None:
    rows = _Rows()
    async with running(Deaf(rows)) as kine:
        before = await kine.put(KEY + b"kept")
        stream = kine.watch()
        stream.create(**EVERY)
        assert (await stream.next()).created
        for number in range(3):
            await kine.put(KEY + b"%d" % number)
        assert len(await stream.events(3)) == 3
        for number in range(3):
            del rows.newest[KEY + b"%d" % number], rows.rows[before + 1 + number]
        rows.head = before

        revision = await kine.put(KEY + b"new")

        assert revision == before + 1
        assert [kv.key for kv in (await kine.get(**EVERY)).kvs] == [KEY + b"kept", KEY + b"new"]
        assert (await stream.next()).canceled, "it has shown what is no more"


# ---- compaction by the other one


@pytest.mark.parametrize("kind", [Deaf, Far])
async def test_what_the_other_instance_has_compacted_is_refused_here(kind: type[Deaf]) -> None:
    rows = _Rows()
    nothing = StoreSettings(compaction=Policy(min_retain=0))
    async with running(kind(rows), nothing) as here, running(kind(rows), nothing) as there:
        old = await here.put(KEY, b"1")
        new = await here.put(KEY, b"2")
        assert (await here.get(KEY, revision=old)).kvs[0].value == b"1"
        await there.call(pb.CompactionRequest(revision=new))

        txn = pb.TxnRequest(success=[pb.RequestOp(request_range=pb.RangeRequest(key=KEY, revision=old))])
        for request in (pb.RangeRequest(key=KEY, revision=old), txn):
            with pytest.raises(RpcError, match="has been compacted"):
                await here.call(request)


# ---- a log that instances share by name


async def test_a_named_log_is_shared_by_those_who_name_it() -> None:
    async with running("memory://shared-log") as here, running("memory://shared-log") as there:
        await here.put(KEY, b"here")
        assert (await there.get(KEY)).kvs[0].value == b"here"
