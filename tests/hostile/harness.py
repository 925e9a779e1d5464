"""Test harness: one misbehaving client and one that behaves, on a real server that is measured from outside.

    def test_row(target: Target) -> None:
        with target.probed() as probe:
            ...  # misbehave, by `target.wire()`, `target.client()` or what a test brings
            probe.answers(100)  # the others are served meanwhile
        assert target.memory_growth < 64 * MIB

Assertions are on quantities: bytes queued and held, files left, messages in one turn of the event loop,
responses to the other client meanwhile. Times are printed for comparison (`pytest -rP`), and never asserted.
`--hostile 10` sends ten times as much as the short form does: multiply by `target.scale`.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from hpack import Encoder

from tests.client import Client
from tests.transport.raw_http2 import END_HEADERS, END_STREAM, HEADERS, Wire, body, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.process import Instance

KIB, MIB = 1024, 1024 * 1024
WAIT = 120.0  # seconds for what must happen
KEY, VALUE = b"/registry/probe", b"here"


def head(stream: int, path: str, *more: tuple[str, str]) -> bytes:
    """As `tests.transport.raw_http2.head`, with the headers that grpcio's server also requires."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "kine")]
    fields += [("te", "trailers"), ("content-type", "application/grpc"), *more]
    return frame(HEADERS, END_HEADERS, stream, Encoder().encode(fields))


def request(stream: int, path: str, message: bytes, *more: tuple[str, str], flags: int = END_STREAM) -> bytes:
    """A call's frames, to send on a `Wire`, with every header that either transport requires."""
    return head(stream, path, *more) + body(stream, message, flags)


def await_that(condition: Callable[[], object]) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "what must come did not"
        time.sleep(0.02)


class Probe:
    """Gets one key repeatedly, on its own connection. A wrong or failed response fails the test."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, timeout=WAIT)
        self._client.put(KEY, VALUE)
        self._stopped = threading.Event()
        self._changed = threading.Condition()
        self._times: list[float] = []
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set() and not self._failure:
            started = time.perf_counter()
            failure = ""
            try:
                found = self._client.get(KEY)
                if found is None or found.value != VALUE:
                    failure = f"another answer than {VALUE!r}: {found}"
            except grpc.RpcError as error:
                failure = f"{error.code().name} {error.details()}"
            with self._changed:
                self._times.append(time.perf_counter() - started)
                self._failure = failure
                self._changed.notify_all()
            self._stopped.wait(0.001)

    @property
    def answered(self) -> int:
        """Number of responses so far."""
        return len(self._times)

    def answers(self, count: int) -> None:
        """Waits for `count` more responses. Fails if they do not come."""
        with self._changed:
            wanted = len(self._times) + count
            served = self._changed.wait_for(lambda: self._failure or len(self._times) >= wanted, WAIT)
        assert served, f"the others were not served for {WAIT:.0f} seconds"
        self.check()

    def check(self) -> None:
        assert not self._failure, f"the others were not served: {self._failure}"

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(WAIT)
        self._client.close()
        times = sorted(self._times)
        if times:
            middle, longest = times[len(times) // 2] * 1000, times[-1] * 1000
            print(f"probe: {len(times)} answers, p50 {middle:.1f} ms, longest {longest:.0f} ms")  # noqa: T201


@dataclass(slots=True)
class Target:
    """A server under attack. `metrics_address` is the port that liveness probes and scrapers use."""

    instance: Instance
    transport: str
    metrics_address: str
    scale: int
    _resting: int = 0  # bytes of memory before the attack
    _closing: list[Client] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.instance.address

    @property
    def pid(self) -> int:
        return self.instance.process.pid

    # ---- clients

    def client(self) -> Client:
        """Returns another client, which is closed at the end."""
        self._closing.append(Client(self.address, timeout=WAIT))
        return self._closing[-1]

    def wire(self, **options: int) -> Wire:
        """A connection for raw frames: `window=0` accepts no response at all. The caller closes it."""
        return Wire(self.address, **options)

    @contextmanager
    def probed(self) -> Iterator[Probe]:
        """The duration of the attack: a probe runs, and memory growth is measured from its start."""
        probe = Probe(self.address)
        try:
            probe.answers(20)
            self.rest()
            yield probe
            probe.answers(20)
            probe.check()
        finally:
            probe.stop()
            if self.instance.running:
                before, most = self._resting // MIB, self.memory_peak // MIB
                print(f"{self.transport}: memory {before} MiB, then {most} MiB at most")  # noqa: T201

    def close(self) -> None:
        for client in self._closing:
            client.close()

    # ---- memory

    def rest(self) -> None:
        """Takes the current memory as the baseline, which is not the attack's."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets VmHWM to the current value
        self._resting = self.memory

    @property
    def memory(self) -> int:
        """Resident bytes now."""
        return self._status("VmRSS")

    @property
    def memory_peak(self) -> int:
        """Maximum of resident bytes since `rest`."""
        return self._status("VmHWM")

    @property
    def memory_growth(self) -> int:
        """Maximum growth of memory in bytes since `rest`."""
        return self.memory_peak - self._resting

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{name}:"))

    # ---- files

    @property
    def files(self) -> set[str]:
        """Relative paths in the server's directory, without the tests' own logs."""
        below = self.instance.directory
        found = {str(path.relative_to(below)) for path in below.rglob("*")}
        return {name for name in found if not name.startswith("server-")}

    @property
    def unlinked(self) -> int:
        """Disk bytes of unlinked files that the server still has open."""
        held = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                if os.readlink(descriptor).endswith(" (deleted)"):
                    held += descriptor.stat().st_blocks * 512
            except FileNotFoundError:  # closed meanwhile
                continue
        return held

    @property
    def disk(self) -> int:
        """Disk bytes of the directory's files, including unlinked ones."""
        held = self.unlinked
        for path in self.instance.directory.rglob("*"):
            try:
                held += path.lstat().st_blocks * 512
            except FileNotFoundError:
                continue
        return held

    @property
    def connections(self) -> int:
        """Number of sockets that the server has open."""
        found = 0
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found += os.readlink(descriptor).startswith("socket:")
            except FileNotFoundError:
                continue
        return found

    # ---- metrics

    def page(self, path: str) -> tuple[int, str]:
        """A page of the metrics port, over its own connection: status and body."""
        connection = http.client.HTTPConnection(self.metrics_address, timeout=WAIT)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels. Raises KeyError if there is none of that name."""
        _, page = self.page("/metrics")
        values = [
            float(line.rpartition(" ")[2])
            for line in page.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        ]
        if not values:
            raise KeyError(name)
        return sum(values)

    @property
    def messages_per_turn(self) -> int:
        """Maximum of stream messages that were handled in one turn of the event loop."""
        return int(self.metric("hostile_stream_messages_per_turn"))

    @property
    def plans_per_turn(self) -> int:
        """Likewise, transactions that were evaluated, except those of Kubernetes' kind."""
        return int(self.metric("hostile_plans_per_turn"))

    @property
    def calls_per_turn(self) -> int:
        """Likewise, unary calls of the http2 transport."""
        return int(self.metric("hostile_calls_per_turn"))

    @property
    def leases_per_turn(self) -> int:
        """Likewise, leases, and keys of leases, that were encoded for a list."""
        return int(self.metric("hostile_leases_per_turn"))

    @property
    def watchers_per_turn(self) -> int:
        """Likewise, watchers that events were sent to."""
        return int(self.metric("hostile_watchers_per_turn"))
