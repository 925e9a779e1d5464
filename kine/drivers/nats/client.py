"""A NATS connection with concurrent requests, whose replies arrive on one inbox subscription."""

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

Answer = Msg | NatsRefusedError | LostError  # a reply, or why none will come

_CONNECT_TIMEOUT = 5.0  # seconds
_TIMEOUT = 5.0  # seconds for one reply
_RECONNECT = 0.25  # seconds between attempts
_PENDING = 64 * 1024 * 1024  # bytes of the send buffer
_CROWDED = _PENDING // 2  # bytes of the send buffer in use, beyond which `put` refuses


class NatsClient:
    def __init__(self, endpoint: NatsEndpoint) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._inbox = ""
        self._numbers = count(1)
        self._waiting: dict[str, tuple[str, Callable[[Answer], None]]] = {}  # by token: subject, callback
        self._deaf: NatsRefusedError | None = None  # the inbox subscription was denied: no replies arrive
        self._trouble: Exception | None = None  # the most telling error of nats-py while connecting
        self.on_reconnect: Callable[[], None] = lambda: None

    # ---- from connecting to closing

    async def connect(self, servers: Sequence[str]) -> None:
        """Connects to the first server that accepts. Raises UnavailableError."""
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
                    no_echo=True,  # only messages of other clients are hints
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
        """The server's max_payload, in bytes. Raises UnavailableError."""
        return self._open.max_payload

    @property
    def version(self) -> tuple[int, int]:
        """The server's major and minor version. Raises UnavailableError."""
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
        # The server's own error says more than the closed connection that follows it.
        if type(error) is nats.errors.Error or self._trouble is None:
            self._trouble = error
        failing.add()
        if (refused := denial(str(error))) is None:
            log.debug("NATS: %s", reason(error))
        else:
            self._refuse(refused)

    async def _disconnected(self) -> None:
        if self._connection is not None:  # None while it is first connecting, and while closing
            log.warning("the connection to NATS is lost, trying to get it back")
        self._lose_all()

    async def _reconnected(self) -> None:
        self._deaf = None  # nats-py has subscribed again, perhaps with other permissions
        log.info("connected to NATS again")
        self.on_reconnect()

    def _lose_all(self) -> None:
        self._give_all(LostError())

    def _give_all(self, told: Answer) -> None:
        waiting, self._waiting = self._waiting, {}
        for _, answer in waiting.values():
            answer(told)

    def _refuse(self, refused: DeniedError) -> None:
        """Fails the requests that a permissions violation concerns: the server sends no reply to these."""
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
            # If several requests match, any of them may be meant: the others may have been delivered.
            answer(exact if len(asked) == 1 else LostError(exact))

    # ---- asking

    async def _answered(self, message: Msg) -> None:
        found = self._waiting.get(message.subject[len(self._inbox) + 1 :])
        if found is not None:
            found[1](message)

    async def send(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Sends a request. The future is the reply, or fails.

        It fails with LostError, NoRespondersError or NatsRefusedError, and has no timeout. Raises
        UnavailableError: then nothing was sent.
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
                future.exception()  # marks it as retrieved: the caller may have given up

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
        """Calls `told` once if the server denies publishing to `subject` during the block."""
        token = self._listen(subject, told)
        try:
            yield
        finally:
            self._waiting.pop(token, None)

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None, *, reply: str = ""
    ) -> None:
        """Publishes a message; replies go to `reply`. Raises UnavailableError: then nothing was sent."""
        if self._deaf is not None and reply:
            raise self._deaf.translated()
        connection = self._connection
        # Otherwise nats-py would buffer it, and send it after a reconnect, when it is out of date.
        if connection is None or not connection.is_connected:
            raise UnavailableError("NATS cannot be reached")
        try:
            await connection.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except (nats.errors.Error, OSError) as error:
            raise UnavailableError(f"nothing could be sent to NATS ({type(error).__name__})") from None

    async def ask(self, subject: str, payload: bytes = b"", headers: Mapping[str, str] | None = None) -> Msg:
        """Sends a request and returns the reply.

        Raises UnavailableError, LostError, NoRespondersError, NatsRefusedError.
        """
        answer = await self.send(subject, payload, headers)
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await answer
        except TimeoutError:
            raise LostError from None

    def put(self, subject: str, payload: bytes, answer: Callable[[Answer], None]) -> bool:
        """As `ask`, without a coroutine: calls `answer` once, with the reply, or LostError on a timeout.

        Returns False if the request could not be sent at once; then `answer` is not called.
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
            sending.send(None)  # `publish` suspends only to flush a full buffer
        except StopIteration:
            timer = asyncio.get_running_loop().call_later(_TIMEOUT, once, LostError())
            return True
        except (nats.errors.Error, OSError):
            pass
        sending.close()
        self._waiting.pop(token, None)
        return False

    async def ask_many(self, subject: str, payload: bytes, is_last: Callable[[Msg], bool]) -> list[Msg]:
        """Sends a request and returns its replies, up to the one for which `is_last` is true.

        Raises UnavailableError, LostError, NatsRefusedError.
        """
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
        """Calls JetStream's API and returns the JSON response.

        Raises NatsRefusedError, UnavailableError, LostError, NoRespondersError.
        """
        message = await self.ask(f"$JS.API.{name}", json.dumps(body).encode() if body else b"")
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise refusal(answer["error"])
        return answer

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Coroutine[None, None, None]]
    ) -> Callable[[], Coroutine[None, None, None]]:
        """Subscribes, and returns a coroutine function that unsubscribes. Raises UnavailableError."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            raise UnavailableError("NATS cannot be reached")
        subscription = await connection.subscribe(subject, cb=callback)

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

        return end

    def new_inbox(self) -> str:
        """A new inbox subject. Raises UnavailableError."""
        return self._open.new_inbox()

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise UnavailableError("the connection to NATS is closed")
        return self._connection


class _Failing:
    """Ends a first connect once every server has failed: nats-py retries for ever, and does not report it."""

    def __init__(self, connection: Connection, servers: int) -> None:
        self._connection = connection
        self._servers = servers
        self._all = asyncio.Event()

    def add(self) -> None:
        if tried(self._connection) >= self._servers:
            self._all.set()

    async def first_of(self, connecting: Coroutine[None, None, None]) -> None:
        """Awaits `connecting`. Raises its error, or TimeoutError if every server failed or time ran out."""
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
