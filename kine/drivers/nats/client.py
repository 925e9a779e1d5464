"""One connection to NATS, and questions over it: many at a time, each with an answer of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import nats
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

from kine.drivers.base import UnavailableError
from kine.drivers.nats.failures import (
    DeniedError,
    LostError,
    NatsRefusedError,
    NoRespondersError,
    denial,
    reason,
    refusal,
    unconnected,
)
from kine.drivers.nats.nats_internals import tried

if TYPE_CHECKING:
    from kine.drivers.nats.endpoint import NatsEndpoint

log = logging.getLogger(__name__)

Answer = Msg | NatsRefusedError | LostError  # an answer, or why none is to come

_CONNECT_TIMEOUT = 5.0  # seconds
_TIMEOUT = 5.0  # for one answer
_RECONNECT = 0.25  # between attempts
_PENDING = 64 * 1024 * 1024  # bytes to send that may wait here
_CROWDED = _PENDING // 2  # of them, with which nothing more is sent without waiting


class NatsClient:
    def __init__(self, endpoint: NatsEndpoint) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._inbox = ""
        self._numbers = count(1)
        self._waiting: dict[str, tuple[str, Callable[[Answer], None]]] = {}  # and the question's subject
        self._deaf: NatsRefusedError | None = None  # answers are not let through to us
        self._trouble: Exception | None = None  # what the library met last
        self.on_reconnect: Callable[[], None] = lambda: None

    # ---- from connecting to closing

    async def connect(self, servers: Sequence[str]) -> None:
        """Raises UnavailableError."""
        options = self._endpoint.connect_options()
        connection = Connection()
        self._trouble = None
        self._deaf = None
        failing = _Failing(connection, len(servers))
        try:
            await failing.first_of(
                connection.connect(
                    list(servers),
                    name=f"kine using bucket: {self._endpoint.bucket}",
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT,  # type: ignore[arg-type] # takes any
                    connect_timeout=2,
                    ping_interval=5,
                    max_outstanding_pings=2,
                    pending_size=_PENDING,
                    no_echo=True,  # what others publish is a hint, what we do is none
                    error_cb=partial(self._failed, failing),
                    disconnected_cb=self._disconnected,
                    reconnected_cb=self._reconnected,
                    **options,
                )
            )
        except Exception as error:
            with contextlib.suppress(Exception):
                await connection.close()
            raise unconnected(self._trouble or error) from None
        self._connection = connection
        self._inbox = connection.new_inbox()
        await connection.subscribe(f"{self._inbox}.*", cb=self._answered)

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.is_connected

    @property
    def max_payload(self) -> int:
        """Raises UnavailableError."""
        return self._open.max_payload

    @property
    def version(self) -> tuple[int, int]:
        """Raises UnavailableError."""
        version = self._open.connected_server_version
        return version.major, version.minor

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(2):
                    await connection.close()
        self._lose_all()

    async def _failed(self, failing: _Failing, error: Exception) -> None:
        # What the server says explains more than that it then closes the connection.
        if type(error) is nats.errors.Error or self._trouble is None:
            self._trouble = error
        failing.add()
        if (refused := denial(str(error))) is None:
            log.debug("NATS: %s", reason(error))
        else:
            self._refuse(refused)

    async def _disconnected(self) -> None:
        if self._connection is not None:  # else it was never there, or is being closed
            log.warning("the connection to NATS is lost, trying to get it back")
        self._lose_all()

    async def _reconnected(self) -> None:
        self._deaf = None  # subscribed again, perhaps with other rights
        log.info("connected to NATS again")
        self.on_reconnect()

    def _lose_all(self) -> None:
        self._give_all(LostError())

    def _give_all(self, told: Answer) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            answer(told)

    def _refuse(self, refused: DeniedError) -> None:
        """The server let a message or a subscription not through, which no answer says."""
        if not refused.publishing:
            log.warning("NATS: %s", refused)
            if refused.subject == f"{self._inbox}.*".lower():
                self._deaf = refused
                self._give_all(refused)
            return
        asked = [token for token, (subject, _) in self._waiting.items() if subject.lower() == refused.subject]
        for token in asked:
            subject, answer = self._waiting.pop(token)
            exact = refused.about(subject)
            # Of several it may be either: the others were perhaps let through.
            answer(exact if len(asked) == 1 else LostError(exact))

    # ---- asking

    async def _answered(self, message: Msg) -> None:
        found = self._waiting.get(message.subject[len(self._inbox) + 1 :])
        if found is not None:
            found[1](message)

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Sends; the future is the answer, or fails with LostError, NobodyError or RefusedError.

        Raises UnavailableError: then nothing was sent.
        """
        done: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        def answer(message: Answer) -> None:
            if done.done():
                return
            if not isinstance(message, Msg):
                done.set_exception(message)
            elif message.headers and message.headers.get("Status") == "503":
                done.set_exception(NoRespondersError())
            else:
                done.set_result(message)

        token = self._listen(subject, answer)

        def ended(future: asyncio.Future[Msg]) -> None:
            self._waiting.pop(token, None)
            if not future.cancelled():
                future.exception()  # it may be that nobody waits for it any more

        done.add_done_callback(ended)
        try:
            await self.publish(subject, payload, headers, reply=f"{self._inbox}.{token}")
        except UnavailableError:
            done.cancel()
            raise
        return done

    def _listen(self, subject: str, answer: Callable[[Answer], None]) -> str:
        token = str(next(self._numbers))
        self._waiting[token] = subject, answer
        return token

    @contextmanager
    def refusing(self, subject: str, told: Callable[[Answer], None]) -> Iterator[None]:
        """Meanwhile `told` is called once if the server does not let through what is published there."""
        token = self._listen(subject, told)
        try:
            yield
        finally:
            self._waiting.pop(token, None)

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Sends what is answered at `reply`, or by nobody. Raises UnavailableError: then nothing was sent."""
        if self._deaf is not None and reply:
            raise self._deaf.translated()
        connection = self._connection
        # Else it would be kept, and sent when nobody waits for it any more.
        if connection is None or not connection.is_connected:
            raise UnavailableError("NATS cannot be reached")
        try:
            await connection.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"nothing could be sent to NATS ({type(error).__name__})") from None

    async def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """One question, one answer. Raises UnavailableError, LostError, NobodyError, RefusedError."""
        answer = await self.send(subject, payload, headers)
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await answer
        except TimeoutError:
            raise LostError from None

    def put(self, subject: str, payload: bytes, answer: Callable[[Answer], None]) -> bool:
        """As `ask`, without a coroutine: `answer` is called once, with LostError if there is none in time.

        False if nothing could be sent at once, and `answer` is not called.
        """
        connection = self._connection
        if connection is None or not connection.is_connected or connection.pending_data_size > _CROWDED:
            return False
        timer: asyncio.TimerHandle | None = None

        def once(message: Answer) -> None:
            if self._waiting.pop(token, None) is not None or not isinstance(message, Msg):
                if timer is not None:
                    timer.cancel()
                answer(message)

        token = self._listen(subject, once)
        sending = connection.publish(subject, payload, reply=f"{self._inbox}.{token}")
        try:
            sending.send(None)  # it waits only for a flush, when it is crowded
        except StopIteration:
            timer = asyncio.get_running_loop().call_later(_TIMEOUT, once, LostError())
            return True
        except (nats.errors.Error, OSError):
            pass
        sending.close()
        self._waiting.pop(token, None)
        return False

    async def ask_many(self, subject: str, payload: bytes, is_last: Callable[[Msg], bool]) -> list[Msg]:
        """One question, many answers up to the last. Raises as `ask`."""
        done: asyncio.Future[list[Msg]] = asyncio.get_running_loop().create_future()
        messages: list[Msg] = []

        def answer(message: Answer) -> None:
            if done.done():
                return
            if not isinstance(message, Msg):
                done.set_exception(message)
                return
            messages.append(message)
            if is_last(message):
                done.set_result(messages)

        token = self._listen(subject, answer)
        try:
            await self.publish(subject, payload, reply=f"{self._inbox}.{token}")
            async with asyncio.timeout(_TIMEOUT):
                return await done
        except TimeoutError:
            raise LostError from None
        finally:
            self._waiting.pop(token, None)

    async def api(self, name: str, /, **body: object) -> dict[str, Any]:
        """JetStream's API. Raises RefusedError, UnavailableError, LostError, NobodyError."""
        message = await self.ask(f"$JS.API.{name}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise refusal(answer["error"])
        return answer

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Coroutine[None, None, None]]
    ) -> Callable[[], Coroutine[None, None, None]]:
        """Returns what ends it. Raises UnavailableError."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            raise UnavailableError("NATS cannot be reached")
        subscription = await connection.subscribe(subject, cb=callback)

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

        return end

    def new_inbox(self) -> str:
        """Raises UnavailableError."""
        return self._open.new_inbox()

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise UnavailableError("the connection to NATS is closed")
        return self._connection


class _Failing:
    """The library tries all servers for ever and tells nobody: ends once each has failed."""

    def __init__(self, connection: Connection, servers: int) -> None:
        self._connection = connection
        self._servers = servers
        self._all = asyncio.Event()

    def add(self) -> None:
        if tried(self._connection) >= self._servers:
            self._all.set()

    async def first_of(self, connecting: Coroutine[None, None, None]) -> None:
        """Raises what connecting raises, TimeoutError where nothing has become of it."""
        tasks = [asyncio.ensure_future(connecting), asyncio.ensure_future(self._all.wait())]
        try:
            await asyncio.wait(tasks, timeout=_CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                raise TimeoutError
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
