"""Restore of spooled keys and leases into a database or an etcd: exact where possible, compared, resumable.

In one of kine's databases rows are written directly, so that each key keeps its create revision, its version
and, in SQL, its revision. An etcd assigns revisions and versions itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from kine.commands.endpoint_client import SCRATCH, EndpointClient, opened, restoring
from kine.drivers.base import UNFINISHED, DriverError, Row
from kine.etcd import errors
from kine.etcd.request_decoding import MAX_TXN_OPS
from kine.proto import rpc_pb2 as rpc
from kine.store.reserved_key_translation import COMPACT_REV_KEY, HEALTH_KEY, name_of, stored
from kine.transport.base import Code, RpcError

if TYPE_CHECKING:
    from kine.commands.progress import Progressing
    from kine.commands.spool import Spool, SpooledKey
    from kine.config import Settings
    from kine.drivers.base import RestorableLog

_BYTES = 1024 * 1024  # in one Txn, under etcd's limit for a request
_PASSED = 128  # concurrent writes that advance the revision
_BURNT = 1_000_000  # maximum revisions to advance by writing, where they cannot be skipped
_AT_ONCE = 32  # concurrent lease grants
_SHOWN = 200  # bytes of a key in a message
_TOO_MUCH = (errors.too_many_ops().message, errors.request_too_large().message)
_FOREVER = 1 << 31  # seconds
_OWN = (HEALTH_KEY, COMPACT_REV_KEY, SCRATCH)  # keys that a server or a restore writes itself


async def restore_into(source: Spool, settings: Settings, bump: int, progress: Progressing) -> int:
    """Writes all keys and leases that the target lacks; returns the number of keys written.

    The target's revision continues after the source's plus `bump`; in kine's databases, earlier revisions are
    compacted. Raises DriverError, before anything is written, if the target has keys of its own or cannot
    hold one of the source's, and afterwards, if its content differs. No kine serves from the target until
    everything is written and compared.
    """
    progress.begin("opening the target", 0)
    async with opened(settings, unfinished=True) as api:
        present = await _present(api, source, exact=False)
        newest, _ = await api.revision()
    put = None
    async with restoring(settings) as log:
        if log is not None:
            put = await _place(log, source, present, source.revision + bump, progress)
    exact = put is not None
    async with opened(settings, unfinished=True) as api:
        if put is None:
            await _check_size(api, source)
            await api.call("KV/Put", rpc.PutRequest(key=SCRATCH), rpc.PutResponse)
            await _pass(api, source.revision + bump - newest - 1, progress)  # that was one
            put = await _write(api, source, present, progress)
        progress.begin("comparing", len(source.entries))
        present = await _present(api, source, exact=exact, progress=progress)
        left = [key for key in source.entries if key not in present]
        gone = [key for key in left if not await _expired(api, source, key)]
        if gone:
            if not set(gone) <= set(_OWN):
                raise DriverError(
                    f"{len(gone)} keys are not at the target: something else deletes there; run it again"
                )
            await _put_all(api, source, [(source.entries[key], key) for key in gone], progress)
        if not exact:
            await api.call("KV/DeleteRange", rpc.DeleteRangeRequest(key=SCRATCH), rpc.DeleteRangeResponse)
    async with restoring(settings) as log:
        if log is not None:
            await log.forget(UNFINISHED)
    return put


async def _expired(api: EndpointClient, source: Spool, key: bytes) -> bool:
    """True if a key is missing because its lease has expired since the key was written."""
    lease = source.get(source.entries[key]).lease
    if not lease:
        return False
    request = rpc.LeaseTimeToLiveRequest(ID=lease)
    answer = await api.call("Lease/LeaseTimeToLive", request, rpc.LeaseTimeToLiveResponse)
    return bool(answer.TTL < 0)


async def _present(
    api: EndpointClient, source: Spool, *, exact: bool, progress: Progressing | None = None
) -> set[bytes]:
    """The source's keys found at the target. Raises DriverError for other keys, and for one that differs.

    `exact` also compares versions and create revisions; a key's revision must be the source's, or a later one
    than all of the source.
    """
    revision, _ = await api.revision()
    present: set[bytes] = set()
    async for page in api.pages(revision):
        for item in page:
            entry = source.entries.get(item.key)
            if entry is None:
                if item.key in _OWN:
                    continue
                raise DriverError(
                    f"the target has a key of its own, {_shown(item.key)}: restore into an empty database"
                )
            wanted = source.get(entry)
            same = (item.value, item.lease) == (wanted.value, wanted.lease)
            if same and exact and item.key not in _OWN:
                same = (item.create_revision, item.version) == (wanted.create_revision, wanted.version) and (
                    item.mod_revision == wanted.mod_revision or item.mod_revision > source.revision
                )
            if same:
                present.add(item.key)
            elif item.key not in _OWN:  # those are written when the database is created
                raise DriverError(
                    f"the target's key {_shown(item.key)} differs: restore into an empty database"
                )
        if progress is not None:
            progress.advance(len(page))
    return present


# ---- into one of kine's databases


async def _place(
    log: RestorableLog, source: Spool, present: set[bytes], bound: int, progress: Progressing
) -> int:
    taken: set[int] = set()
    names: set[bytes] = set()
    deletions = False
    compacted = await log.compact_revision()
    async for block in log.load():
        for row in block:
            if row.deleted and not row.prev_revision:
                continue  # no key's row: it only fills a gap
            taken.add(row.id)
            if not row.deleted:
                names.add(row.name)
            elif row.id >= compacted:
                deletions = True
    missing = sorted(
        (entry, key)
        for key, entry in source.entries.items()
        if key not in present and name_of(key) not in names
    )
    ids = _ids([entry.mod_revision for entry, _ in missing], taken, source.revision)
    _raise_for(await log.refused(_rows(source, missing, ids)))
    await log.grant(UNFINISHED, _FOREVER)
    bound = max([bound, *ids])
    # Before any key: a client that reads a half-restored database must not take it for complete.
    if compacted < bound or deletions:
        newest = await log.newest()
        await log.advance(bound if newest <= bound and not deletions else newest + 1)
    await _grant(log, source, progress)
    progress.begin("writing", len(missing))
    rows = _rows(source, missing, ids)
    for group in _groups([entry for entry, _ in missing]):
        await log.place(list(islice(rows, len(group))))
        progress.advance(len(group))
    return len(missing)


def _rows(source: Spool, missing: list[tuple[SpooledKey, bytes]], ids: list[int]) -> Iterator[Row]:
    for (entry, _), row_id in zip(missing, ids, strict=True):
        item = source.get(entry)
        yield _row(item, row_id, source.leases.get(item.lease, 0))


def _raise_for(refused: Mapping[bytes, str]) -> None:
    for key, reason in refused.items():
        several = f"{len(refused)} of the keys, one of them" if len(refused) > 1 else "the key"
        raise DriverError(f"the target cannot hold {several} {_shown(key)}: {reason}; nothing was written")


def _shown(key: bytes) -> str:
    return repr(key if len(key) <= _SHOWN else key[:_SHOWN] + b"...")


async def _grant(log: RestorableLog, source: Spool, progress: Progressing) -> None:
    there = {lease.id: lease for lease in await log.leases()}
    wanted = [(lease, ttl) for lease, ttl in source.leases.items() if lease not in there]
    progress.begin("granting leases", len(wanted))
    for start in range(0, len(wanted), _AT_ONCE):
        block = wanted[start : start + _AT_ONCE]
        await asyncio.gather(*(log.grant(lease, ttl) for lease, ttl in block))
        progress.advance(len(block))


def _ids(wanted: list[int], taken: set[int], last: int) -> list[int]:
    """An id for each row, in order. An id that is taken is replaced by one after the source's last revision.

    Ids collide because in etcd the writes of one Txn share a revision, and because a new database has rows.
    """
    ids = []
    for one in wanted:
        if one in taken:
            last += 1
            while last in taken:
                last += 1
            one = last
        taken.add(one)
        ids.append(one)
    return ids


def _row(item: Any, row_id: int, ttl: int) -> Row:
    return Row(
        id=row_id,
        name=name_of(item.key),
        created=item.create_revision == row_id and item.version == 1,
        deleted=False,
        create_revision=item.create_revision,
        prev_revision=0,
        ttl=ttl,
        value=stored(item.key, item.version, item.value),
        lease=item.lease,
        version=item.version if item.version > 1 or item.create_revision != row_id else 0,
    )


# ---- into an etcd


async def _check_size(api: EndpointClient, source: Spool) -> None:
    """Tries the largest key-value in a Txn that writes nothing, as an etcd does not report its size limit."""
    largest = max(source.entries.values(), key=lambda entry: entry.size, default=None)
    if largest is None or largest.size < _BYTES // 2:
        return
    item = source.get(largest)
    never = rpc.Compare(key=item.key, target=rpc.Compare.VERSION, result=rpc.Compare.LESS, version=0)
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=item.key, value=item.value))
    try:
        await api.call("KV/Txn", rpc.TxnRequest(compare=[never], success=[put]), rpc.TxnResponse)
    except RpcError as error:
        if error.code in (Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED):
            reason = f"its value has {len(item.value)} bytes, and the server refuses it ({error.message})"
            _raise_for({item.key: f"{reason}: raise the server's --max-request-bytes"})
        raise


async def _pass(api: EndpointClient, count: int, progress: Progressing) -> None:
    """Advances the revision beyond the source's by writing, so that no revision has two meanings."""
    if count < 0:
        return
    if count > _BURNT:
        raise DriverError(
            f"{count} revisions are to be passed over, which an etcd does only by writing, and at most"
            f" {_BURNT} of them: give a smaller --bump-revision, restore into SQLite, PostgreSQL, MySQL or"
            " NATS, or use etcd's own etcdutl snapshot restore --bump-revision"
        )
    progress.begin("passing revisions", count)
    for start in range(0, count, _PASSED):
        block = range(start, min(start + _PASSED, count))  # an etcd syncs concurrent writes together
        puts = (api.call("KV/Put", rpc.PutRequest(key=SCRATCH), rpc.PutResponse) for _ in block)
        await asyncio.gather(*puts)
        progress.advance(len(block))


async def _write(api: EndpointClient, source: Spool, present: set[bytes], progress: Progressing) -> int:
    missing = sorted((entry, key) for key, entry in source.entries.items() if key not in present)
    progress.begin("writing", len(missing))
    await _put_all(api, source, missing, progress)
    return len(missing)


async def _put_all(
    api: EndpointClient, source: Spool, missing: list[tuple[SpooledKey, bytes]], progress: Progressing
) -> None:
    granted: set[int] = set()
    for group in _groups([entry for entry, _ in missing]):
        items = [source.get(entry) for entry in group]
        await _grant_at(api, source, {item.lease for item in items} - granted)
        try:
            await _put(api, items)
        except RpcError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            # A short lease has expired since it was granted, and its keys were deleted with it.
            await _grant_at(api, source, {item.lease for item in items})
            await _put(api, items)
        granted.update(item.lease for item in items)
        progress.advance(len(items))


async def _put(api: EndpointClient, items: list[Any]) -> None:
    puts = [rpc.PutRequest(key=item.key, value=item.value, lease=item.lease) for item in items]
    if len(puts) == 1:
        await api.call("KV/Put", puts[0], rpc.PutResponse)
        return
    request = rpc.TxnRequest(success=[rpc.RequestOp(request_put=put) for put in puts])
    try:
        await api.call("KV/Txn", request, rpc.TxnResponse)
    except RpcError as error:
        if error.message not in _TOO_MUCH:
            raise
        half = len(items) // 2  # this server's --max-txn-ops or --max-request-bytes is lower than usual
        await _put(api, items[:half])
        await _put(api, items[half:])


async def _grant_at(api: EndpointClient, source: Spool, leases: set[int]) -> None:
    async def grant(lease: int) -> None:
        request = rpc.LeaseGrantRequest(ID=lease, TTL=source.leases[lease])
        try:
            await api.call("Lease/LeaseGrant", request, rpc.LeaseGrantResponse)
        except RpcError as error:
            if error.code is not Code.FAILED_PRECONDITION:  # it is there already
                raise

    await asyncio.gather(*(grant(lease) for lease in leases if lease))


def _groups(entries: list[SpooledKey]) -> Iterator[list[SpooledKey]]:
    group: list[SpooledKey] = []
    size = 0
    for entry in entries:
        if group and (len(group) == MAX_TXN_OPS or size + entry.size > _BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group
