"""A connection that Kerberos may encrypt: waits for what libpq has at hand, not for its socket alone.

A GSSAPI packet is decrypted whole, up to 16 KB, and libpq's `PQconsumeInput` takes what its buffer has room
for. The rest it keeps, and the socket, which is all psycopg waits for, has nothing more to tell: an answer
would never be seen to end. Seen with libpq 15, the system's, which other builds of psycopg than its wheel
may use; not with that wheel's libpq 18.6. Servers before PostgreSQL 17 mostly send packets that fit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

from psycopg import AsyncConnection, Connection, waiting

from kine.identity.daemon_thread import in_daemon_thread

RV = TypeVar("RV")
C = TypeVar("C", bound=AsyncConnection[Any])

_READS = 2  # that empty libpq of a packet, as each has room for 8 KB at least


class GssConnection(AsyncConnection[Any]):
    _left = False  # the last read may have left something

    async def wait(self, gen: Generator[Any, Any, RV], *options: Any, **named: Any) -> RV:
        return await super().wait(self._reading(gen), *options, **named)

    def _reading(self, gen: Generator[Any, Any, RV]) -> Generator[Any, Any, RV]:
        """`gen`, told more often than the socket does that there may be something to read.

        Reading costs little where there is nothing. What comes just between two reads is found when
        psycopg's interval of 0.1 s is over.
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
    """Lasts until it is connected; what libpq has then is taken over, and must not be called left open."""

    def __del__(self, *_: Any) -> None:
        """Its libpq connection closes itself."""


async def connect_off_loop(kind: type[C], prepare_threshold: int | None, **parameters: Any) -> C:
    """A connection in autocommit mode whose handshake took place in a thread of its own.

    Kerberos asks name servers and KDCs in the middle of it, and libpq waits for their answers.
    """
    libpq = await in_daemon_thread(lambda: _Handshake.connect(**parameters).pgconn)
    connection = kind(libpq)
    await connection.set_autocommit(True)
    connection.prepare_threshold = prepare_threshold
    return connection
