"""Messages between the driver and its worker processes: tasks and outcomes. Both are sent through a pipe."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection as Pipe

    from bench.endpoint import Endpoint
    from bench.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Task:
    """One worker's part of one run. Counts are of the whole run; a worker takes its share of them."""

    scenario: str
    endpoint: Endpoint
    prefix: bytes  # of the keys this run writes; no other run uses it
    data_prefix: bytes  # of the data set that is only read
    role: str = "load"  # in watch scenarios `write` or `follow`; `both` when each worker does both
    worker: int = 0  # among the workers of this role
    workers: int = 1
    client: str = "own"  # or grpcio
    clients: int = 64
    connections: int = 8
    rate: float = 0.0  # requests a second; 0: closed loop
    warmup: float = 1.0  # seconds
    duration: float = 10.0  # seconds
    timeout: float = 10.0  # seconds a request may take
    keys: int = 10_000
    size: int = 1024  # bytes of a value
    page: int = 500
    watchers: int = 0
    seed: int = 1

    def share(self, total: int) -> int:
        """This worker's share of a count that all workers divide."""
        return total // self.workers + (self.worker < total % self.workers)


@dataclass(slots=True)
class TaskOutcome:
    """The result of one worker. Times in seconds."""

    latency: dict[str, Histogram] = field(default_factory=dict)  # by kind of request
    completed: int = 0  # right answers within the measured time
    answers: int = 0  # all answers and failures, warm-up and drain included
    elapsed: float = 0.0  # measured time, shorter if the work ran out
    errors: dict[str, int] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)  # errors before and after the measured time
    unstarted: int = 0  # open loop: requests due for which no client was free
    cpu: float = 0.0  # this process's, over `wall`
    wall: float = 0.0
    written: array[int] = field(default_factory=lambda: array("q"))  # revisions of acknowledged writes
    sent: array[float] = field(default_factory=lambda: array("d"))
    acked: array[float] = field(default_factory=lambda: array("d"))
    seen: array[int] = field(default_factory=lambda: array("q"))  # revisions of events that arrived
    arrived: array[float] = field(default_factory=lambda: array("d"))
    watches: int = 0  # open watches, each of which should receive every write


class Exchange:
    """Messages between writers and followers during a run, sent through the driver."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def wrote(self, last: int) -> None:
        """Announces that this worker has finished writing; `last` is its newest acknowledged revision, 0 if
        none."""
        self._pipe.send(("wrote", last))

    def newest(self) -> int | None:
        """The newest revision of all writers, None until all have finished. Does not wait."""
        if not self._pipe.poll():
            return None
        newest: int = self._pipe.recv()
        return newest
