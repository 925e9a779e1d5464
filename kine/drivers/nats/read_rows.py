"""Reading rows from the stream's messages: a full load, new rows, values, and the detection of lost ones.

A bucket keeps a bounded number of a key's revisions, and drops the oldest as new ones come. Revisions that
were dropped before kine read them are detected: sequences are dense, and each row names the row it replaces.
Reads and watches that need them fail as compacted; see docs/nats.md for the rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from kine.drivers.base import Row
from kine.drivers.nats import row_messages
from kine.drivers.nats.row_messages import MessageKind, RowMessage
from kine.drivers.nats.stream import LAGGING, JetStreamStream, answered
from kine.drivers.nats.subjects import decode

if TYPE_CHECKING:
    from kine.drivers.nats.metadata_bucket import MetadataBucket

_BATCHES = (2, 11)  # the first nats-server with batched direct gets


class RowReader:
    def __init__(self, stream: JetStreamStream, state: MetadataBucket) -> None:
        self._stream = stream
        self._state = state
        # By row id, the key's last message if that is not the row: Go kine's marker after its tombstone.
        self.last_of: dict[int, int] = {}
        self._unmarked: dict[bytes, int] = {}  # Go kine's tombstones whose marker has not been seen
        self._versions: dict[int, int] = {}
        self.uncounted: set[int] = set()  # rows without a version of their own
        self._loaded = (0, 0)  # the last row of the last full load, and the sequence it reached
        self.floor = 0  # the history before this was incomplete at the last load

    # ---- the full load

    async def load(self, after: int) -> AsyncIterator[list[Row]]:
        self._versions = await self._state.versions()
        history = int(self._stream.config.get("max_msgs_per_subject", 0))
        newest: dict[bytes, tuple[int, bool]] = {}
        told: dict[bytes, int] = {}  # by key: messages, if the first row may have replaced another
        firsts: dict[bytes, int] = {}
        floor = 0
        present = set()
        last, upto = after, await answered(self._stream.last_sequence())
        source = self._stream.read(after)
        while (block := await answered(anext(source, None))) is not None:
            rows = []
            for message in block:
                name = decode(message.subject)
                if name is None:
                    continue
                if name in told:
                    told[name] += 1
                row = self._row(message, name)
                if row is None:
                    continue
                before = newest.get(name)
                if before is None:
                    if row.prev_revision > after:
                        floor = max(floor, row.id)
                    elif row_messages.OURS not in message.headers:
                        told[name], firsts[name] = 1, row.id
                elif row.prev_revision != before[0] and not (not row.prev_revision and before[1]):
                    floor = max(floor, row.id)  # a revision was dropped during this load
                newest[name] = row.id, row.deleted
                if row.id in self._versions:
                    present.add(row.id)
                rows.append(row._replace(value=None))
            if rows:
                last = rows[-1].id
                yield rows
        self._loaded = last, max(last, upto)
        for name, messages in told.items():
            if messages >= history > 0:
                floor = max(floor, firsts[name])
        self.floor = max(self.floor, floor)
        if not after:
            gone = self._versions.keys() - present
            for row_id in gone:
                del self._versions[row_id]
            await self._state.drop_versions(sorted(gone))

    # ---- new rows

    async def after(self, after: int, limit: int, known: int) -> tuple[list[Row], int, bool]:
        """Rows after a sequence, the sequence read up to, and whether any row was dropped before it was read.

        `known` is a sequence the stream is known to have reached.
        """
        messages = await self._messages(after, limit)
        while True:
            position = messages[-1].sequence if messages else after
            if len(messages) >= limit or position >= known:
                head = position
                break
            # The last messages were removed, or a replica lags: the leader knows which.
            next_one = await answered(self._stream.get(seq=position + 1, next_by_subj=">"))
            if next_one is None:
                head = max(position, known)
                break
            if len(messages) + 1 < limit and next_one.sequence < known:
                await asyncio.sleep(LAGGING)
                more = await self._messages(position, limit - len(messages))
                messages += more or [next_one]
            else:
                messages.append(next_one)
        missing = False
        rows: list[Row] = []
        last, upto = self._loaded
        position = upto if last <= after < upto else after
        for message in messages:
            if message.sequence <= position:
                continue  # no row, else the load would have returned it: Go kine's marker at the end
            missing = missing or message.sequence != position + 1
            position = message.sequence
            name = decode(message.subject)
            if name is not None and (row := self._row(message, name)) is not None:
                rows.append(row)
        if head > position:
            missing = True
            rows.clear()  # a gap at the end shows only by returning no rows
        return rows, head, missing

    async def _messages(self, after: int, limit: int) -> list[RowMessage]:
        if self._stream.client.version >= _BATCHES:
            return await answered(self._stream.batch(after, limit))
        found: list[RowMessage] = []
        source = self._stream.read(after)
        while len(found) < limit and (block := await answered(anext(source, None))) is not None:
            found += block
        await source.aclose()  # type: ignore[attr-defined]
        return found[:limit]

    # ---- values

    async def values(self, ids: Sequence[int]) -> dict[int, bytes]:
        messages = await answered(self._stream.direct(ids))
        found = {}
        for row_id, message in messages.items():
            row = row_messages.decode(message, b"", with_value=True)
            found[row_id] = (row.value if row is not None else None) or b""
        return found

    # ---- one message

    def _row(self, message: RowMessage, name: bytes) -> Row | None:
        kind = row_messages.message_kind(message)
        if kind is MessageKind.MARKER:
            tombstone = self._unmarked.pop(name, None)
            if tombstone is None:  # a deletion by another KV client, without a row of kine's
                return Row(message.sequence, name, False, True, 0, 0, 0, b"", 0, 0)
            self.last_of[tombstone] = message.sequence
            return None
        row = row_messages.decode(message, name, with_value=True) if kind is MessageKind.ROW else None
        if row is None:
            return None
        self._unmarked.pop(name, None)
        self.last_of.pop(row.prev_revision, None)
        if row.deleted and row_messages.MARKER not in message.headers:
            self._unmarked[name] = row.id
        if not row.deleted and not row.version:
            self.uncounted.add(row.id)
            row = row._replace(version=self._versions.get(row.id, 0))
        return row

    # ---- compaction

    async def superseded(self, after: int, revision: int) -> dict[str, tuple[int, bool, bool]]:
        """Subjects that have messages after `after` up to `revision`.

        For each: the last such sequence, whether it is a deletion, and whether older ones may exist.
        """
        found: dict[str, tuple[int, bool, bool]] = {}
        source = self._stream.read(after, headers_only=True, upto=revision)
        while (block := await answered(anext(source, None))) is not None:
            for message in block:
                older = message.subject in found or not row_messages.replaces_nothing(message)
                found[message.subject] = message.sequence, row_messages.is_deletion(message), older
        return found

    async def counted(self, versions: Sequence[tuple[int, int]]) -> None:
        """Stores the versions of rows that have none of their own."""
        kept = [(row_id, version) for row_id, version in versions if row_id in self.uncounted]
        self._versions.update(kept)
        await self._state.keep_versions(kept)
