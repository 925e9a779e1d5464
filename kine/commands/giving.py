"""What was taken put into another endpoint: as it was where that can be, compared, begun again at will.

A database of ours is given rows, so that each key keeps its create revision, its version and, in SQL, its
revision. An etcd numbers what it is given itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kine.commands.api import Api, opened, restoring
from kine.drivers.base import DriverError, Row
from kine.etcd.proto import rpc_pb2 as rpc
from kine.store.keys import HEALTH_KEY, name_of, stored
from kine.transport.base import Code, RpcError

if TYPE_CHECKING:
    from kine.commands.transfer import Entry, Progressing, Spool
    from kine.config import Settings
    from kine.drivers.base import Restoring

_OPS = 128  # in one Txn: etcd's limit
_BYTES = 1024 * 1024  # in one Txn, under etcd's limit for a request
_BURNT = 1_000_000  # revisions used up by writing, at most, where they cannot be left out
_SCRATCH = b"\0kine restore"
_OWN = (HEALTH_KEY, b"compact_rev_key", _SCRATCH)  # a server's own


async def give(source: Spool, settings: Settings, bump: int, progress: Progressing) -> int:
    """Puts it all there, after what is there already of it; how many keys were put.

    Nothing up to `bump` revisions after the source's is answered there any more. Raises DriverError when
    the target has keys of its own, or when what it holds then differs.
    """
    async with opened(settings) as api:
        present = await _present(api, source, exact=False)
        newest, _ = await api.revision()
    put = None
    async with restoring(settings) as log:
        if log is not None:
            put = await _place(log, source, present, source.revision + bump, progress)
    exact = put is not None
    async with opened(settings) as api:
        if put is None:
            await _pass(api, source.revision + bump - newest, progress)
            put = await _write(api, source, present, progress)
        progress.begin("comparing", len(source.entries))
        present = await _present(api, source, exact=exact, progress=progress)
        if left := [key for key in source.entries if key not in present]:
            if not set(left) <= set(_OWN):
                raise DriverError(
                    f"{len(left)} keys are not at the target: something else deletes there; run it again"
                )
            await _put_all(api, source, [(source.entries[key], key) for key in left], progress)
    return put


async def _present(
    api: Api, source: Spool, *, exact: bool, progress: Progressing | None = None
) -> set[bytes]:
    """The keys that are at the target. Raises DriverError for one that is not as at the source.

    Exact are versions and create revisions; a revision is the source's own, or one after all of the source's.
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
                    f"the target has a key of its own, {item.key[:200]!r}: restore into an empty database"
                )
            wanted = source.get(entry)
            same = (item.value, item.lease) == (wanted.value, wanted.lease)
            if same and exact and item.key not in _OWN:
                same = (item.create_revision, item.version) == (wanted.create_revision, wanted.version) and (
                    item.mod_revision == wanted.mod_revision or item.mod_revision > source.revision
                )
            if same:
                present.add(item.key)
            elif item.key not in _OWN:  # those were written when the database was made
                raise DriverError(
                    f"the target's key {item.key[:200]!r} differs: restore into an empty database"
                )
        if progress is not None:
            progress.advance(len(page))
    return present


# ---- a database of ours


async def _place(
    log: Restoring, source: Spool, present: set[bytes], bound: int, progress: Progressing
) -> int:
    taken: set[int] = set()
    names: set[bytes] = set()
    deletions = False
    compacted = await log.compact_revision()
    async for rows in log.load():
        for row in rows:
            if row.deleted and not row.prev_revision:
                continue  # nobody's: it only fills a gap
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
    bound = max([bound, *ids])
    # Before any key: whoever looks at a half restored database is not told that this is all there was.
    if compacted < bound or deletions:
        newest = await log.newest()
        await log.advance(bound if newest <= bound and not deletions else newest + 1)
    for lease, ttl in source.leases.items():
        await log.grant(lease, ttl)
    progress.begin("writing", len(missing))
    free = iter(ids)
    for group in _groups([entry for entry, _ in missing]):
        items = [source.get(entry) for entry in group]
        rows = [_row(item, next(free), source.leases.get(item.lease, 0)) for item in items]
        await log.place(rows)
        progress.advance(len(rows))
    return len(missing)


def _ids(wanted: list[int], taken: set[int], last: int) -> list[int]:
    """An id for each, in order; one that another has gives way to one after the source's last.

    In etcd the writes of one Txn share a revision, and a database has rows of its own from the start.
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


# ---- an etcd


async def _pass(api: Api, count: int, progress: Progressing) -> None:
    """Writes until the revision is past the source's, so that no revision means two things to a client."""
    if count < 0:
        return
    if count > _BURNT:
        raise DriverError(
            f"{count} revisions are to be passed over, which an etcd does only by writing, and at most"
            f" {_BURNT} of them: give a smaller --bump-revision, restore into SQLite, PostgreSQL, MySQL or"
            " NATS, or use etcd's own etcdutl snapshot restore --bump-revision"
        )
    progress.begin("passing revisions", count)
    for _ in range(count):
        await api.call("KV/Put", rpc.PutRequest(key=_SCRATCH), rpc.PutResponse)
        progress.advance(1)
    await api.call("KV/DeleteRange", rpc.DeleteRangeRequest(key=_SCRATCH), rpc.DeleteRangeResponse)


async def _write(api: Api, source: Spool, present: set[bytes], progress: Progressing) -> int:
    for lease, ttl in source.leases.items():
        try:
            request = rpc.LeaseGrantRequest(ID=lease, TTL=ttl)
            await api.call("Lease/LeaseGrant", request, rpc.LeaseGrantResponse)
        except RpcError as error:
            if error.code is not Code.FAILED_PRECONDITION:  # it is there already
                raise
    missing = sorted((entry, key) for key, entry in source.entries.items() if key not in present)
    progress.begin("writing", len(missing))
    await _put_all(api, source, missing, progress)
    return len(missing)


async def _put_all(
    api: Api, source: Spool, missing: list[tuple[Entry, bytes]], progress: Progressing
) -> None:
    for group in _groups([entry for entry, _ in missing]):
        ops = []
        for entry in group:
            item = source.get(entry)
            ops.append(rpc.PutRequest(key=item.key, value=item.value, lease=item.lease))
        if len(ops) == 1:
            await api.call("KV/Put", ops[0], rpc.PutResponse)
        else:
            request = rpc.TxnRequest(success=[rpc.RequestOp(request_put=put) for put in ops])
            await api.call("KV/Txn", request, rpc.TxnResponse)
        progress.advance(len(ops))


def _groups(entries: list[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    size = 0
    for entry in entries:
        if group and (len(group) == _OPS or size + entry.size > _BYTES):
            yield group
            group, size = [], 0
        group.append(entry)
        size += entry.size
    if group:
        yield group
