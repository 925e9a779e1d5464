"""The bucket `<bucket>-kine`: compact revision, leases and versions, which Go kine's format has no place for.

A second bucket, as a record in the first one would take a revision. Its keys:

compact          {"revision": R, "removed": P}: compacted to R; superseded revisions are removed up to P
lease.<id>       {"ttl": seconds, "renewals": n}
version.<id>     the version of a row that Go kine wrote, once it cannot be counted any more
reserve          zeros: space for deletions and compactions, released when the account or the server is full
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kine.drivers.base import DriverError, LeaseRecord, UnavailableError
from kine.drivers.nats.failures import LostError, NatsRefusedError, NoRespondersError, refusal
from kine.drivers.nats.row_messages import EXPECTED
from kine.drivers.nats.stream import JetStreamStream, answered

if TYPE_CHECKING:
    from kine.drivers.nats.client import NatsClient

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds to write a record that others may be writing too
_PAUSE = 0.2  # seconds between attempts
_RESERVE = 256 * 1024  # bytes: the size of a thousand deletions
_RESERVE_EVERY = 60.0  # seconds between attempts to create the reserve
_DESCRIPTION = "Leases and the compact revision of kine"


class Compaction(NamedTuple):
    revision: int
    removed: int
    sequence: int  # of the record; 0: no record

    @property
    def done(self) -> bool:
        return self.removed >= self.revision


class MetadataBucket:
    def __init__(self, client: NatsClient, bucket: str) -> None:
        self.stream = JetStreamStream(client, f"{bucket}-kine")
        self._reserved = False  # whether the reserve is known to exist
        self._reserve_again = 0.0  # event-loop time

    async def open(self, replicas: int) -> None:
        await self.stream.ensure(1, replicas, _DESCRIPTION)
        await self.keep_reserve()

    # ---- the reserve

    async def keep_reserve(self) -> None:
        """Creates the reserve if it does not exist and there is space for it.

        Called after each write; mostly it has nothing to do.
        """
        now = asyncio.get_running_loop().time()
        if self._reserved or now < self._reserve_again:
            return
        self._reserve_again = now + _RESERVE_EVERY
        try:
            found = await answered(self.stream.get(last_by_subj="reserve"))
            size = min(_RESERVE, self.stream.client.max_payload // 2)
            if found is None:
                await self._put("reserve", "0" * size, 0, vital=False)
            self._reserved = True
        except DriverError as error:
            log.debug("there is no room for a reserve: %s", error)

    async def release_reserve(self) -> bool:
        """Removes the reserve. Returns whether that has freed space."""
        self._reserve_again = asyncio.get_running_loop().time() + _RESERVE_EVERY
        self._reserved = False
        if not await answered(self.stream.purge("reserve")):
            return False
        log.warning("the NATS account or server is full: using the reserve to delete and to compact")
        return True

    # ---- the compact revision

    async def compaction(self) -> Compaction:
        message = await answered(self.stream.get(last_by_subj="compact"))
        if message is None:
            return Compaction(0, 0, 0)
        record = json.loads(message.data)
        return Compaction(record["revision"], record["removed"], message.sequence)

    async def compaction_now(self) -> Compaction:
        """The compaction, from a leader that is confirmed to lead. Raises DriverError."""
        found = await self.compaction()
        await self._confirm()
        return found

    async def _confirm(self) -> None:
        """Confirms that the last response came from the leader: see `JetStreamStream.last_sequence`."""
        if int(self.stream.config.get("num_replicas", 1)) > 1:
            await self.stream.last_sequence()

    async def record(self, now: Compaction) -> Compaction | None:
        """Replaces the record that has sequence `now.sequence`; None if another instance has replaced it."""
        body = {"revision": now.revision, "removed": now.removed}
        sequence = await self._put("compact", body, now.sequence)
        return None if sequence is None else now._replace(sequence=sequence)

    # ---- leases

    async def leases(self) -> list[LeaseRecord]:
        return [_lease(subject, record) for subject, record in (await self._all("lease.*")).items() if record]

    async def lease(self, lease_id: int) -> LeaseRecord | None:
        subject = f"lease.{lease_id}"
        message = await answered(self.stream.get(last_by_subj=subject))
        await self._confirm()
        return None if message is None else _lease(subject, json.loads(message.data))

    async def grant(self, lease_id: int, ttl: int, renewals: int) -> bool:
        record = {"ttl": ttl, "renewals": renewals}
        return await self._put(f"lease.{lease_id}", record, 0, vital=False) is not None

    async def renew(self, lease_id: int, renewals: int) -> None:
        subject = f"lease.{lease_id}"
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while True:
            message = await answered(self.stream.get(last_by_subj=subject))
            if message is None:
                return
            record = json.loads(message.data)
            if record["renewals"] < 0:
                return
            record["renewals"] = max(record["renewals"] + 1, renewals)
            if await self._put(subject, record, message.sequence) is not None or loop.time() > until:
                return

    async def expire(self, lease_id: int, renewals: int) -> bool:
        subject = f"lease.{lease_id}"
        message = await answered(self.stream.get(last_by_subj=subject))
        if message is None:
            return True
        record = json.loads(message.data)
        if record["renewals"] != renewals:
            return bool(record["renewals"] < 0)
        return await self._put(subject, {**record, "renewals": -1}, message.sequence) is not None

    async def forget(self, lease_id: int) -> None:
        await answered(self.stream.purge(f"lease.{lease_id}"))

    # ---- versions

    async def versions(self) -> dict[int, int]:
        return {
            int(subject.rpartition(".")[2]): int(record)
            for subject, record in (await self._all("version.*")).items()
        }

    async def keep_versions(self, versions: Sequence[tuple[int, int]]) -> None:
        for row_id, version in versions:
            await self._put(f"version.{row_id}", version, None)

    async def drop_versions(self, ids: Sequence[int]) -> None:
        for row_id in ids:
            await answered(self.stream.purge(f"version.{row_id}"))

    # ---- records

    async def _all(self, subjects: str) -> dict[str, Any]:
        found = {}

        async def read() -> None:
            async for block in self.stream.read(0, filtered=subjects):
                for message in block:
                    found[message.subject] = json.loads(message.data)

        await answered(read())
        return found

    async def _put(
        self, subject: str, body: object, expected: int | None, *, vital: bool = True
    ) -> int | None:
        """Writes a record; its sequence, or None on a conflict. Raises DriverError.

        In a full store, a `vital` record uses the reserve.

        After a lost acknowledgement the record is written again. If the first copy was stored, the second
        conflicts with it.
        """
        payload = json.dumps(body).encode()
        headers = {EXPECTED: str(expected)} if expected is not None else None
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        repeated = False
        while True:
            try:
                answer = await self.stream.client.ask(f"{self.stream.prefix}{subject}", payload, headers)
            except NatsRefusedError as error:
                raise error.translated() from error
            except (LostError, NoRespondersError, UnavailableError) as error:
                if loop.time() > until:
                    raise UnavailableError("NATS did not answer in time") from error
                repeated = True
                await asyncio.sleep(_PAUSE)
                continue
            acknowledged = json.loads(answer.data)
            if "error" not in acknowledged:
                return int(acknowledged["seq"])
            refused = refusal(acknowledged["error"])
            if refused.again:
                if loop.time() > until:
                    raise UnavailableError("JetStream is busy")
                repeated = True
                await asyncio.sleep(_PAUSE)
                continue
            if not refused.conflict:
                if vital and refused.full and await self.release_reserve():
                    continue
                raise refused.translated() from refused
            if repeated:
                message = await answered(self.stream.get(last_by_subj=subject))
                if message is not None and message.data == payload:
                    return message.sequence
            return None


def _lease(subject: str, record: dict[str, int]) -> LeaseRecord:
    return LeaseRecord(int(subject.rpartition(".")[2]), record["ttl"], record["renewals"])
