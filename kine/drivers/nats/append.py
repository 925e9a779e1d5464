"""Appending a group of writes to JetStream: all are published at once, with optimistic concurrency.

Each message has the expected last sequence of its subject, which also makes a write safe to repeat: at most
one copy can be stored. If an acknowledgement is lost, kine publishes again, and looks up which message
follows the expected one.

The rows of one write are published as an atomic batch (nats-server 2.12). The stream must allow batches, and
Go kine does not open a bucket that does. So kine turns the setting on at the first such write, and off when
it closes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from nats.aio.msg import Msg

from kine.drivers.base import (
    BehindError,
    DriverError,
    InvalidKeyError,
    NewRow,
    Outcome,
    TooLargeError,
    UnavailableError,
    UnknownOutcomeError,
    Write,
)
from kine.drivers.nats import row_messages
from kine.drivers.nats.failures import (
    BATCH_OFF,
    BATCH_TOO_LARGE,
    MAXIMUM_BYTES,
    LostError,
    NatsRefusedError,
    NoRespondersError,
    refusal,
)
from kine.drivers.nats.stream import JetStreamStream, answered
from kine.drivers.nats.subjects import encode

if TYPE_CHECKING:
    from kine.drivers.nats.read_rows import RowReader

_PATIENCE = 10.0  # seconds for a group, including the settling of lost acknowledgements
_ANSWER = 3.0  # seconds for one acknowledgement
_PAUSE = 0.02  # seconds before the first retry, doubled each time
_LONGEST_PAUSE = 0.5
_RESERVE = 1024 * 1024  # bytes of a stream with max_bytes, a tenth at most, kept free for deletions
_OVERHEAD = 512  # bytes a message takes in the stream besides its payload, approximately
_MEASURED = 1.0  # seconds until the stream's size is queried again
_SLACK = 1024  # bytes of headers, which count as payload
_BATCH = 1000  # rows: the server's default limit
_TOO_OLD = "writes to several keys at once need nats-server 2.12 or newer; this one cannot do them atomically"


class Publication(NamedTuple):
    """A row as the message to publish."""

    row: NewRow
    name: str
    subject: str
    payload: bytes
    expected: int


class Appender:
    def __init__(self, stream: JetStreamStream, reader: RowReader) -> None:
        self._stream = stream
        self._reader = reader
        self._instance = secrets.token_hex(6)
        self._numbers = count(1)
        self.atomic = False  # whether the stream is known to allow batches
        self._used = 0  # estimated bytes in the stream
        self._measured = 0.0  # event-loop time

    async def append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        """Implements `kine.drivers.base.Log.append`."""
        publications = [[self._publication(row) for row in write.rows] for write in writes]
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        if await self._full_for([one for its in publications for one in its]):
            raise NatsRefusedError(MAXIMUM_BYTES, "").translated()
        if not any(write.guarded or len(write.rows) > 1 for write in writes):
            return [
                (sequence,) if isinstance(sequence, int) else sequence
                for sequence in await self._all([one for (one,) in publications], deadline)
            ]
        if any(write.guarded for write in writes) and await answered(self._stream.last_sequence()) > head:
            raise BehindError
        # Sequentially: the sequence that a guard expects is known once the writes before are stored.
        outcome: list[Outcome] = []
        for write, its in zip(writes, publications, strict=True):
            guard = head if write.guarded else None
            ids: Outcome
            try:
                ids = await self._one(its, guard, deadline)
            except UnavailableError:
                if not any(outcome):
                    raise
                ids = None  # earlier writes are stored and must be reported; this one is decided again
            except DriverError as error:
                ids = error
            outcome.append(ids)
            if ids and not isinstance(ids, DriverError):
                head = ids[-1] if ids[0] == head + 1 else head
        return outcome

    async def disallow_batches(self) -> None:
        if self.atomic:
            self.atomic = False
            await answered(self._stream.configure(allow_atomic=False))

    def check(self, row: NewRow) -> None:
        """Raises InvalidKeyError for a row that cannot be published."""
        encode(row.name)
        if row.value is not None and len(row.value) * 2 + _SLACK > self.largest:
            self._publication(row)

    def _publication(self, row: NewRow) -> Publication:
        """The message for a row. Raises InvalidKeyError."""
        subject = encode(row.name)
        payload = row_messages.encode(row)
        limit = self.largest - len(subject)
        if len(payload) > limit:
            raise TooLargeError(
                f"the value takes {len(payload)} bytes as a message and this NATS server accepts {limit};"
                " raise its max_payload, or the stream's max_msg_size"
            )
        expected = self._reader.last_of.get(row.prev_revision, row.prev_revision)
        return Publication(row, f"{self._instance}-{next(self._numbers)}", subject, payload, expected)

    @property
    def largest(self) -> int:
        """The most bytes a message's payload and subject may have together. Raises UnavailableError."""
        limit = self._stream.client.max_payload
        own = int(self._stream.config.get("max_msg_size", -1))
        return (min(limit, own) if own > 0 else limit) - _SLACK

    # ---- a stream with a limit

    async def _full_for(self, publications: Sequence[Publication]) -> bool:
        """Whether these writes would use the space reserved for deletions and compaction."""
        limit = int(self._stream.config.get("max_bytes", -1))
        if limit <= 0 or all(one.row.deleted for one in publications):
            return False
        room = limit - min(_RESERVE, limit // 10)
        size = sum(len(one.payload) + len(one.subject) + _OVERHEAD for one in publications)
        now = asyncio.get_running_loop().time()
        if now - self._measured > _MEASURED or self._used + size > room:
            self._used = int((await self._stream.info())["state"]["bytes"])
            self._measured = now
        self._used += size
        return self._used > room

    # ---- writes of one row, without a guard

    async def _all(
        self, publications: list[Publication], deadline: float
    ) -> Sequence[int | DriverError | None]:
        outcome: dict[int, int | DriverError | None] = {}
        answers: list[asyncio.Future[Msg]] = []
        try:
            for one in publications:
                answers.append(await self._publish(one, {}))  # noqa: PERF401 - those sent must be known
        except UnavailableError:
            if not answers:
                raise
            # The rest was not sent: None makes the caller decide again.
            outcome.update(dict.fromkeys(range(len(answers), len(publications))))
        await asyncio.wait(answers, timeout=_ANSWER)
        unsettled: dict[int, bool] = {}  # by position: whether the message may have been stored
        for number, (one, answer) in enumerate(zip(publications, answers, strict=False)):
            try:
                outcome[number] = _acknowledged(answer)
            except NatsRefusedError as error:
                if error.conflict:
                    outcome[number] = await self._alone(self._conflict(one, deadline))
                elif error.again:
                    unsettled[number] = False
                else:
                    outcome[number] = error.translated()
            except NoRespondersError:
                unsettled[number] = False
            except LostError:
                unsettled[number] = True
        for number, lost in unsettled.items():
            outcome[number] = await self._alone(self._settle(publications[number], deadline, lost=lost))
        return [outcome[number] for number in range(len(publications))]

    @staticmethod
    async def _alone(work: Awaitable[int | None]) -> int | DriverError | None:
        """Returns an error as the write's outcome, as the other writes may have been stored."""
        try:
            return await work
        except NatsRefusedError as error:
            return error.translated()
        except DriverError as error:
            return error

    async def _publish(self, one: Publication, extra: dict[str, str]) -> asyncio.Future[Msg]:
        headers = {**row_messages.headers(one.row, one.name, one.expected), **extra}
        subject = f"{self._stream.prefix}{one.subject}"
        return await self._stream.client.send(subject, one.payload, headers)

    async def _conflict(self, one: Publication, deadline: float) -> int | None:
        """Settles a conflicting creation if only a tombstone is in the way; else None.

        The tombstone may be known only here, having been purged, or exist only in the stream.
        """
        if not one.row.created:
            return None
        try:
            last = await answered(self._stream.get(last_by_subj=one.subject))
        except UnavailableError:
            return None  # others of its group may be stored: the caller decides again
        if last is None and one.expected:
            return await self._settle(one._replace(expected=0), deadline)
        if last is not None and not one.expected and row_messages.is_deletion(last):
            return await self._settle(one._replace(expected=last.sequence), deadline)
        return None

    async def _settle(
        self,
        one: Publication,
        deadline: float,
        extra: dict[str, str] | None = None,
        *,
        lost: bool = False,  # whether a copy of it may have been stored
    ) -> int | None:
        """Publishes again until the outcome is known: the sequence, or None for a conflict.

        Raises UnknownOutcomeError, and NatsRefusedError if no copy can have been stored.
        """
        loop = asyncio.get_running_loop()
        pause = _PAUSE
        while loop.time() < deadline:
            try:
                answer = await self._publish(one, extra or {})
                await asyncio.wait([answer], timeout=_ANSWER)
                return _acknowledged(answer)
            except NatsRefusedError as error:
                if error.conflict:
                    landed = await self._landed(one)
                    if landed is not False:
                        return landed
                elif not error.again and not lost:
                    raise
            except LostError:
                lost = True
            except (NoRespondersError, UnavailableError):
                pass
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        raise UnknownOutcomeError("NATS did not tell in time what became of a write")

    async def _landed(self, one: Publication) -> int | bool | None:
        """The message's sequence, None if another message is in its place, False if not known yet."""
        try:
            found = await answered(self._stream.get(seq=one.expected + 1, next_by_subj=one.subject))
            if found is None:
                return False if not one.expected or await self._still_last(one) else None
        except UnavailableError:
            return False
        if row_messages.written_by(found) == one.name:
            return found.sequence
        before = row_messages.decode(found, one.row.name, with_value=False)
        if before is not None and before.prev_revision not in (one.row.prev_revision, 0):
            raise UnknownOutcomeError("a write took place or not: what came right after it is gone")
        return None

    async def _still_last(self, one: Publication) -> bool:
        last = await answered(self._stream.get(last_by_subj=one.subject))
        return last is not None and last.sequence == one.expected

    # ---- writes of several rows, or with a guard

    async def _one(
        self, publications: list[Publication], guard: int | None, deadline: float
    ) -> Sequence[int] | None:
        extra = {} if guard is None else {"Nats-Expected-Last-Sequence": str(guard)}
        if len(publications) > 1:
            return await self._batch(publications, extra, deadline)
        one = publications[0]
        try:
            answer = await self._publish(one, extra)
            await asyncio.wait([answer], timeout=_ANSWER)
            sequence = _acknowledged(answer)
        except NatsRefusedError as error:
            if error.conflict:
                return None
            if not error.again:
                raise error.translated() from error
            raise UnavailableError("JetStream is busy") from error
        except NoRespondersError:
            raise UnavailableError("JetStream does not answer") from None
        except LostError:
            settled = await self._settle(one, deadline, extra, lost=True)
            return None if settled is None else (settled,)
        return (sequence,)

    async def _batch(
        self, publications: list[Publication], extra: dict[str, str], deadline: float
    ) -> Sequence[int] | None:
        """Publishes an atomic batch; its sequences, or None for a conflict.

        Raises DriverError, of which InvalidKeyError if the server cannot write so many rows atomically.
        """
        if len(publications) > _BATCH:
            raise InvalidKeyError(f"a NATS server writes at most {_BATCH} keys at once")
        await self._allow_batches()
        loop = asyncio.get_running_loop()
        pause = _PAUSE
        first = publications[0]
        lost = False
        while loop.time() < deadline:
            try:
                sequence = await self._commit(publications, extra)
                return range(sequence - len(publications) + 1, sequence + 1)
            except NatsRefusedError as error:
                if error.code == BATCH_OFF:  # another instance has turned it off when it stopped
                    self.atomic = False
                    await self._allow_batches()
                elif error.code == BATCH_TOO_LARGE:
                    raise InvalidKeyError("this NATS server does not write so many keys at once") from error
                elif error.conflict:
                    if not lost:
                        return None
                    landed = await self._landed(first)
                    if landed is None:
                        return None
                    if landed is not False:
                        return range(landed, landed + len(publications))
                elif not error.again:
                    raise error.translated() from error
            except LostError:
                lost = True
            except (NoRespondersError, UnavailableError):
                if not lost:
                    raise UnavailableError("JetStream does not answer") from None
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        if lost:
            raise UnknownOutcomeError("NATS did not tell in time what became of a write")
        raise UnavailableError("JetStream did not take a batch in time")

    async def _commit(self, publications: list[Publication], extra: dict[str, str]) -> int:
        name = f"{self._instance}-{secrets.token_hex(6)}"
        last = len(publications)
        client = self._stream.client
        answer: asyncio.Future[Msg] | None = None
        for number, one in enumerate(publications, 1):
            batch = {row_messages.BATCH: name, "Nats-Batch-Sequence": str(number)}
            if number == last:
                batch[row_messages.COMMIT] = "1"
            if number == 1:
                first = await self._publish(one, {**batch, **extra})
                await asyncio.wait([first], timeout=_ANSWER)
                _confirmed(first)
            elif number == last:
                answer = await self._publish(one, batch)
            else:
                headers = {**row_messages.headers(one.row, one.name, one.expected), **batch}
                await client.publish(f"{self._stream.prefix}{one.subject}", one.payload, headers)
        assert answer is not None
        await asyncio.wait([answer], timeout=_ANSWER)
        return _acknowledged(answer)

    async def _allow_batches(self) -> None:
        if self.atomic:
            return
        if self._stream.client.version < (2, 12):
            raise InvalidKeyError(_TOO_OLD)
        await answered(self._stream.configure(allow_atomic=True))
        self.atomic = bool(self._stream.config.get("allow_atomic"))
        if not self.atomic:
            raise InvalidKeyError(_TOO_OLD)


def _acknowledged(answer: asyncio.Future[Msg]) -> int:
    """The sequence of an acknowledgement. Raises NatsRefusedError, LostError, NoRespondersError."""
    if not answer.done():
        answer.cancel()
        raise LostError
    acknowledged = json.loads(answer.result().data)
    if "error" in acknowledged:
        raise refusal(acknowledged["error"])
    return int(acknowledged["seq"])


def _confirmed(answer: asyncio.Future[Msg]) -> None:
    """Checks the reply to a batch's first message, which is empty or an error.

    Raises NatsRefusedError, and UnavailableError if there was no reply.
    """
    if not answer.done():
        answer.cancel()
        raise UnavailableError("JetStream did not answer")  # nothing is committed yet
    data = answer.result().data
    if data:
        told = json.loads(data)
        if "error" in told:
            raise refusal(told["error"])
