"""A connection with GSSAPI encryption, which also reads data that libpq has decrypted and kept.

libpq decrypts a whole GSSAPI packet, up to 16 KB, and `PQconsumeInput` copies as much as its buffer has room
for. The rest stays in libpq. psycopg waits for the socket only, which does not become readable again, so
the end of a result would never be seen. Seen with libpq 15, the system's, which other builds of psycopg than
its wheel may use; not with that wheel's libpq 18.6. Servers before PostgreSQL 17 mostly send packets that
fit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection, waiting

from kine.identity.daemon_thread import in_daemon_thread

RV = TypeVar("RV")
C = TypeVar("C", bound=AsyncConnection[Any])

_READS = 2  # reads that empty libpq of a packet, as each has room for 8 KB at least


class GssConnection(AsyncConnection[Any]):
    _left = False  # whether libpq may hold decrypted data since the last read

    async def wait(self, gen: Generator[Any, Any, RV], *options: Any, **named: Any) -> RV:
        return await super().wait(self._reading(gen), *options, **named)

    def _reading(self, gen: Generator[Any, Any, RV]) -> Generator[Any, Any, RV]:
        """Wraps `gen`, and reports the socket ready to read more often than it is.

        A read without data costs little. Data that arrives between two reads is found after psycopg's
        interval of 0.1 s.
        """
        try:
            state = next(gen)
            if self._left and state & waiting.WAIT_R:
                self._left = False
                state = gen.send(waiting.READY_R)
            while True:
                ready = yield state
                if state & waiting.WAIT_R:
                    self._left = bool(ready & waiting.READY_R)
                    ready |= waiting.READY_R
                state = gen.send(ready)
                for _ in range(_READS):
                    if state != waiting.WAIT_R:
                        break
                    state = gen.send(waiting.READY_R)
                else:
                    self._left = False
        except StopIteration as end:
            result: RV = end.value
            return result


class _Handshake(Connection[Any]):
    """A blocking connection for the handshake only: its libpq connection is taken over afterwards.

    psycopg must not warn that it was left open.
    """

    def __del__(self, *_: Any) -> None:
        """Leaves the libpq connection open, for its new owner."""


async def connect_off_loop(kind: type[C], prepare_threshold: int | None, **parameters: Any) -> C:
    """Connects in autocommit mode, with the handshake in a thread of its own.

    During the handshake Kerberos queries name servers and KDCs, and libpq blocks until they answer.
    """
    libpq = await in_daemon_thread(lambda: _Handshake.connect(**parameters).pgconn)
    connection = kind(libpq)
    await connection.set_autocommit(True)
    connection.prepare_threshold = prepare_threshold
    return connection
