"""The parent process of workers: accepts connections, passes them on, and restarts workers that exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kine import drivers
from kine.observe.logging import fields
from kine.transport.acceptor import BREATHER, ExhaustedError, accepted
from kine.transport.listen_sockets import listen, remove_socket
from kine.workers import WorkerError, parent_channel

if TYPE_CHECKING:
    from kine.config import Settings

log = logging.getLogger(__name__)

_AT_ONCE = 64  # connections accepted per loop iteration
_LASTING = 30.0  # seconds after which a worker that exits is restarted at once
_LONGEST_PAUSE = 30.0  # maximum seconds before a restart
_STOPPING = 10.0  # seconds for workers to stop; two suffice unless the database delays them


@dataclass(slots=True, eq=False)
class WorkerProcess:
    number: int
    process: asyncio.subprocess.Process
    channel: socket.socket
    up: bool = False
    ready: bool = False
    served: bool = False  # it has been ready
    open: int = 0  # client connections
    given: int = 0  # connections passed to it since its start
    # Passed on and not taken yet, oldest first. The parent keeps them, for another worker if this one exits.
    waiting: deque[tuple[bytes, socket.socket]] = field(default_factory=deque)

    @property
    def load(self) -> tuple[int, int, int]:
        """Sort key for new connections: a worker with untaken ones gets more only if there is no other."""
        return len(self.waiting), self.open, self.given


async def supervise(settings: Settings, stop: asyncio.Event) -> None:
    """Runs workers until `stop` is set. Raises WorkerError, ValueError or OSError if it cannot start."""
    if drivers.of_one_process(settings.endpoint, settings.driver_options()):
        raise ValueError(
            "--workers: this database lives in one process and cannot be shared by several; "
            "leave --workers out, or set an --endpoint on SQLite, PostgreSQL, MySQL or a NATS server"
        )
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(sock) for sock in listen(settings.listen_address)]
        if settings.listen_address.path:
            stack.callback(remove_socket, settings.listen_address.path)
        scraped = settings.metrics_bind_address
        scrapers = [stack.enter_context(sock) for sock in listen(scraped)] if scraped is not None else []
        listeners = [(parent_channel.CLIENT, sock) for sock in clients]
        listeners += [(parent_channel.METRICS, sock) for sock in scrapers]
        address = settings.listen_address
        if not address.path:
            address = address.at(clients[0].getsockname()[1])
        await Parent(listeners, str(address), settings.client_url(address)).run(settings.workers, stop)
    log.info("stopped")


class Parent:
    def __init__(self, listeners: Sequence[tuple[bytes, socket.socket]], address: str, url: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners = listeners
        self._address = address
        self._url = url
        self._workers: list[WorkerProcess] = []
        self._left: deque[tuple[bytes, socket.socket]] = deque()  # connections that no worker could take yet
        self._listening: set[bytes] = set()
        self._changed = asyncio.Event()  # a worker has become ready

    async def run(self, count: int, stop: asyncio.Event) -> None:
        """Runs workers until `stop` is set. Raises WorkerError if one exits before it was ever ready."""
        stopped = asyncio.create_task(stop.wait())
        # The first one alone: it creates the tables, and any error of the database is logged only once.
        keepers = [asyncio.create_task(self._keep(1))]
        try:
            for number in range(2, count + 1):
                if await self._until(1, stopped, keepers):
                    keepers.append(asyncio.create_task(self._keep(number)))
            if await self._until(count, stopped, keepers):
                log.info("serving", extra=fields(address=self._address, workers=count))
                log.info("Kine available at %s", self._url)
                await self._until(count + 1, stopped, keepers)
        finally:
            stopped.cancel()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self._stop()

    async def _until(
        self, ready: int, stopped: asyncio.Task[bool], keepers: Sequence[asyncio.Task[None]]
    ) -> bool:
        """Waits until so many workers are ready; False if `stopped` is done first. Raises WorkerError."""
        while not stopped.done() and sum(worker.ready for worker in self._workers) < ready:
            self._changed.clear()
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait((changed, stopped, *keepers), return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            for keeper in keepers:
                if keeper.done():
                    keeper.result()
        return not stopped.done()

    # ---- workers

    async def _keep(self, number: int) -> None:
        """Keeps a worker of this number running. Raises WorkerError if it exits before it was ever ready."""
        served, soon = False, 0
        while True:
            begun = self._loop.time()
            try:
                worker = await self._start(number)
            except OSError as error:
                if not served:
                    raise
                log.warning("cannot start a worker: %s", error.strerror, extra=fields(worker=number))
                await asyncio.sleep(_LONGEST_PAUSE)
                continue
            code = await worker.process.wait()
            self._ended(worker)
            served = served or worker.served
            if not served:
                raise WorkerError(number, code)
            soon = 0 if worker.served and self._loop.time() - begun > _LASTING else soon + 1
            pause = min(_LONGEST_PAUSE, 2.0 ** (soon - 2)) if soon > 1 else 0.0
            log.warning(
                "a worker has ended, another takes its place",
                extra=fields(worker=number, pid=worker.process.pid, ended_by=_reason(code), seconds=pause),
            )
            await asyncio.sleep(pause)

    async def _start(self, number: int) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with contextlib.ExitStack() as unless_started, theirs:
            unless_started.enter_context(ours)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *sys.orig_argv[1:],
                env={**os.environ, parent_channel.VARIABLE: parent_channel.variable(number, theirs)},
                pass_fds=(theirs.fileno(),),
            )
            unless_started.pop_all()
        worker = WorkerProcess(number, process, ours)
        self._workers.append(worker)
        self._loop.add_reader(ours.fileno(), self._heard, worker)
        return worker

    def _ended(self, worker: WorkerProcess) -> None:
        worker.up = worker.ready = False
        self._workers.remove(worker)
        self._loop.remove_reader(worker.channel.fileno())
        worker.channel.close()
        self._left += worker.waiting
        self._dispatch()

    async def _stop(self) -> None:
        """Stops all workers: closing its channel makes a worker drain and exit."""
        self._listen(set())
        for _, listener in self._listeners:
            listener.close()
        waits = []
        for worker in self._workers:
            self._loop.remove_reader(worker.channel.fileno())
            worker.channel.close()
            waits.append(asyncio.create_task(worker.process.wait()))
        if waits:
            await asyncio.wait(waits, timeout=_STOPPING)
        for worker in self._workers:
            if worker.process.returncode is None:
                log.warning("a worker did not stop and is killed", extra=fields(worker=worker.number))
                worker.process.kill()
            for _, connection in worker.waiting:
                connection.close()
        await asyncio.gather(*waits)
        for _, connection in self._left:
            connection.close()

    def _heard(self, worker: WorkerProcess) -> None:
        try:
            said = worker.channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:  # the worker is exiting
            self._loop.remove_reader(worker.channel.fileno())
            worker.up = worker.ready = False
        for byte in said:
            self._answer(worker, bytes((byte,)))
        self._dispatch()

    def _answer(self, worker: WorkerProcess, said: bytes) -> None:
        if said == parent_channel.TAKEN:
            kind, connection = worker.waiting.popleft()
            connection.close()
            worker.open += kind == parent_channel.CLIENT
        elif said == parent_channel.ENDED:
            worker.open -= 1
        elif said == parent_channel.UP:
            worker.up = True
        elif said == parent_channel.READY:
            worker.ready = worker.served = True
            self._changed.set()
        elif said == parent_channel.STOPPING:
            worker.up = worker.ready = False
        elif said == parent_channel.ASK:
            self._ask(worker)

    def _ask(self, asking: WorkerProcess) -> None:
        """Connects every other worker to the one that asks, to send it their status."""
        for worker in self._workers:
            if worker.up and worker is not asking:
                here, there = socket.socketpair()
                with here, there:
                    if parent_channel.pass_on(worker.channel, parent_channel.ASKED, there):
                        parent_channel.pass_on(asking.channel, parent_channel.TOLD, here)
        with contextlib.suppress(OSError):
            asking.channel.send(parent_channel.ALL_TOLD)

    # ---- connections

    def _takers(self, kind: bytes) -> list[WorkerProcess]:
        takers = (w for w in self._workers if (w.ready if kind == parent_channel.CLIENT else w.up))
        return sorted(takers, key=lambda worker: worker.load)

    def _dispatch(self) -> None:
        """Passes on connections that are left over, and accepts only the kinds that some worker takes.

        Connections of other kinds wait in the kernel's backlog.
        """
        left, self._left = self._left, deque()
        for kind, connection in left:
            self._pass_on(kind, connection)
        self._listen({kind for kind, _ in self._listeners if self._takers(kind)})

    def _listen(self, kinds: set[bytes]) -> None:
        for kind, listener in self._listeners:
            if kind in kinds and kind not in self._listening:
                self._loop.add_reader(listener.fileno(), self._accept, kind, listener)
            elif kind not in kinds and kind in self._listening:
                self._loop.remove_reader(listener.fileno())
        self._listening = kinds

    def _accept(self, kind: bytes, listener: socket.socket) -> None:
        try:
            for connection, _ in accepted(listener, _AT_ONCE):
                self._pass_on(kind, connection)
        except ExhaustedError as error:
            log.warning("cannot accept a connection: %s", error)
            self._listen(self._listening - {kind})
            self._loop.call_later(BREATHER, self._dispatch)

    def _pass_on(self, kind: bytes, connection: socket.socket) -> None:
        for worker in self._takers(kind):
            if parent_channel.pass_on(worker.channel, kind, connection):
                worker.waiting.append((kind, connection))
                worker.given += 1
                return
        self._left.append((kind, connection))


def _reason(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
