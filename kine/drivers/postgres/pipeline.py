"""PostgreSQL's pipeline mode without psycopg's cursors: several statements in one round trip.

Statements up to one sync point are one transaction. Every write and every linearizable read waits for such a
round trip. psycopg's cursors and pipelines do more (adaptation, row factories, preparing by use, watching
the socket again for each result): 250 us of CPU for a write and 100 us for a read. This module takes 40 and
20 (bench scenarios `create-1` and `get-1`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import psycopg
from psycopg import pq

from kine.futures import settle

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_BINARY = 1
_READS = 3  # reads that empty libpq of the largest encrypted packet, as each has room for 8 KB at least
_DONE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_ABORTED = pq.ExecStatus.PIPELINE_ABORTED
_SYNC = pq.ExecStatus.PIPELINE_SYNC

Answer: TypeAlias = "pq.abc.PGresult"


class Statement(NamedTuple):
    name: bytes  # of the prepared statement; empty if it is never prepared
    text: bytes  # with parameters $1, $2 ...
    types: tuple[int, ...] = ()  # oids of the parameters


Question: TypeAlias = tuple[Statement, Sequence[bytes | None]]  # parameters in PostgreSQL's binary form


# A callback, called once with the results or the error. It must not call `put`.
Then: TypeAlias = "Callable[[list[Answer], psycopg.Error | None], None]"


class _Asked:
    """Statements in flight, up to one sync point."""

    __slots__ = ("answers", "error", "then")

    def __init__(self, then: Then) -> None:
        self.then = then
        self.answers: list[Answer] = []
        self.error: psycopg.Error | None = None


class Pipeline:
    """A connection in pipeline mode, whose socket the event loop watches as long as it is open.

    Statements are sent at once, without waiting for earlier results; results come in the same order. `hear`
    is called with the payload of every notification.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        """Takes over the connection, which must be idle."""
        self.connection = connection
        self.prepared: set[bytes] = set()  # names of statements
        self.hear: Callable[[bytes], None] | None = None
        self._libpq = connection.pgconn
        self._asked: deque[_Asked] = deque()
        self._loop = asyncio.get_running_loop()
        self._writing = False
        self._retiring = False
        self.ended = asyncio.Event()  # set when the connection is closed, by kine or by the server
        self._libpq.enter_pipeline_mode()
        self._socket = self._libpq.socket
        self._loop.add_reader(self._socket, self._readable)

    @property
    def closed(self) -> bool:
        return self.ended.is_set()

    def ask(self, questions: Sequence[Question], *, prepared: bool) -> asyncio.Future[list[Answer]]:
        """Sends statements as one transaction; the future's result is one PGresult for each, in order.

        The future fails with the psycopg.Error of the first statement that failed. Cancelling it does not
        cancel the statements.
        """
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        self.put(questions, partial(settle, future), prepared=prepared)
        return future

    def put(self, questions: Sequence[Question], then: Then, *, prepared: bool) -> None:
        """As `ask`, with a callback instead of a future: it runs one iteration of the event loop earlier."""
        libpq = self._libpq
        self._asked.append(_Asked(then))
        try:
            for (name, text, types), parameters in questions:
                formats = [_BINARY] * len(parameters)
                if prepared and name:
                    libpq.send_query_prepared(name, parameters, formats, _BINARY)
                else:
                    libpq.send_query_params(text, parameters, types, formats, _BINARY)
            self._end()
        except psycopg.Error as error:
            self._fail(error)

    async def prepare(self, statement: Statement) -> None:
        """Prepares the statement under its name. Raises psycopg.Error."""
        future: asyncio.Future[list[Answer]] = self._loop.create_future()
        self._asked.append(_Asked(partial(settle, future)))
        try:
            self._libpq.send_prepare(statement.name, statement.text, statement.types)
            self._end()
        except psycopg.Error as error:
            self._fail(error)
        await future
        self.prepared.add(statement.name)

    def retire(self) -> None:
        """Closes the connection once all statements in flight have ended."""
        self._retiring = True
        if not self._asked:
            self.close()

    def close(self) -> None:
        """Closes the connection. Statements in flight fail, with an unknown outcome."""
        self._fail(psycopg.OperationalError("the connection was closed"))

    def _end(self) -> None:
        self._libpq.pipeline_sync()
        self._flush()

    def _flush(self) -> None:
        full = bool(self._libpq.flush())
        if full != self._writing:
            self._writing = full
            if full:
                self._loop.add_writer(self._socket, self._writable)
            else:
                self._loop.remove_writer(self._socket)
        self._take()  # while it could not send, libpq has read, and the socket may not become readable again

    def _writable(self) -> None:
        try:
            self._flush()
        except psycopg.Error as error:
            self._fail(error)

    def _readable(self) -> None:
        try:
            # libpq may keep decrypted data, for which the socket does not become readable again.
            for _ in range(_READS):
                self._libpq.consume_input()
                self._take()
                if not self._asked:
                    break
        except psycopg.Error as error:
            self._fail(error)

    def _take(self) -> None:
        """Processes the results in what libpq has read. Does not ask for more, as libpq would block."""
        libpq, waiting = self._libpq, self._asked
        while waiting and not libpq.is_busy():
            result = libpq.get_result()
            if result is None:  # between one statement and the next
                if libpq.status != pq.ConnStatus.OK:
                    raise psycopg.OperationalError("the connection was lost")
                continue
            status = result.status
            if status == _SYNC:
                self._answer(waiting.popleft())
            elif status in _DONE:
                waiting[0].answers.append(result)
            elif status != _ABORTED and waiting[0].error is None:
                waiting[0].error = psycopg.errors.error_from_result(result)
        if self._retiring and not waiting:
            self.close()
        if self.closed:
            return
        while (notice := libpq.notifies()) is not None:
            if self.hear is not None:
                self.hear(notice.extra)

    def _answer(self, asked: _Asked) -> None:
        asked.then(asked.answers, asked.error)
        if asked.error is None:
            return
        if not self._asked and self._libpq.transaction_status != pq.TransactionStatus.IDLE:
            self.close()  # a statement has opened a transaction, which the closing rolls back

    def _fail(self, error: psycopg.Error) -> None:
        if not self.closed:
            self.ended.set()
            self._loop.remove_reader(self._socket)
            if self._writing:
                self._loop.remove_writer(self._socket)
            self._libpq.finish()
        # An earlier error from the server says more: it means that nothing was committed.
        asked, self._asked = self._asked, deque()
        for each in asked:
            each.then([], each.error or error)
