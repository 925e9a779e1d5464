"""The server under the soak: resource usage of its processes, its own metrics, and its compaction.

Compaction is requested as the API server does it (k8s.io/apiserver, pkg/storage/etcd3/compact.go): each
instance compares and sets a key, then calls Compact with the revision of one interval ago.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING

import psutil

from bench import etcd_requests
from bench.http2 import ProtocolError
from bench.sync_client import CallError, SyncClient
from kine.proto import rpc_pb2

if TYPE_CHECKING:
    from bench.server_launcher import Running

COMPACT_KEY = b"compact_rev_key"
TIMEOUT = 60.0
PATIENCE = 3600.0  # timeout of a compaction: an API server waits without a limit
TELLS = {  # the server's own metrics that explain its memory usage
    "kine_value_cache_bytes": "value_cache",
    "kine_list_cache_bytes": "list_cache",
    "kine_keys": "keys",
    "kine_revision": "revision",
    "kine_compact_revision": "compact_revision",
    "kine_slow_watchers": "slow_watchers",
}


@dataclass(frozen=True, slots=True)
class Holding:
    """Usage of the server's process; `database_*` of its database's processes, if any. Bytes, seconds."""

    rss: int
    fds: int
    threads: int
    cpu: float
    database_rss: int
    database_cpu: float
    db_size: int
    db_in_use: int
    disk: int
    told: dict[str, int]  # the server's own metrics, by the names in TELLS; empty if it has none of them


def told(text: str) -> dict[str, int]:
    """The metrics in TELLS from a page in Prometheus' text format."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in TELLS:
            found[TELLS[name]] = int(float(value))
    return found


class Observed:
    """A running server. Raises OSError, ProtocolError, CallError, psutil.Error when it has ended."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._server = psutil.Process(running.pid)
        self._databases = [psutil.Process(pid) for pid in running.pids[1:]]
        self._version = 0
        self._revision = 0
        self.compactions = 0
        self.compaction_seconds = 0.0  # of the longest compaction
        self.errors: dict[str, int] = {}
        self._compacting: Thread | None = None

    def holding(self) -> Holding:
        with SyncClient(self._running.endpoint) as client:
            status = rpc_pb2.StatusResponse.FromString(client.call(etcd_requests.STATUS, b"", TIMEOUT))
        rss, cpu = self._databases_use()
        with self._server.oneshot():
            times = self._server.cpu_times()
            return Holding(
                rss=self._server.memory_info().rss,
                fds=self._server.num_fds(),
                threads=self._server.num_threads(),
                cpu=times.user + times.system,
                database_rss=rss,
                database_cpu=cpu,
                db_size=status.dbSize,
                db_in_use=status.dbSizeInUse,
                disk=self._running.disk_bytes(),
                told=self._told(),
            )

    def _told(self) -> dict[str, int]:
        """Reads the metrics from the client port, which also answers HTTP/1.1, as etcd's does."""
        endpoint = self._running.endpoint
        connection = HTTPConnection(endpoint.host, endpoint.port, timeout=TIMEOUT)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except HTTPException:  # a port with gRPC only
            return {}
        finally:
            connection.close()
        return told(text)

    def _databases_use(self) -> tuple[int, float]:
        """The unshared memory of the databases' processes, and the CPU seconds of the running ones."""
        rss, cpu = 0, 0.0
        for root in self._databases:
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times, memory = process.cpu_times(), process.memory_info()
                    rss += memory.rss - memory.shared
                    cpu += times.user + times.system
        return rss, cpu

    def compact_beside(self) -> None:
        """Starts one turn of the API server's compactor in a thread, unless the last one still runs."""
        if self._compacting is None or not self._compacting.is_alive():
            self._compacting = Thread(target=self.compact, daemon=True)
            self._compacting.start()

    def catch_up(self) -> float:
        """Compacts the whole history, which is not counted. Returns the seconds that it took."""
        started = monotonic()
        if self._compacting is not None:
            self._compacting.join()
        for _ in range(2):  # the first records the revision, the second compacts to it
            self.compact()
        self.compactions, self.compaction_seconds = 0, 0.0
        return monotonic() - started

    def compact(self) -> None:
        """One turn of the compactor; a failure is counted, and the next turn makes up for it."""
        try:
            with SyncClient(self._running.endpoint) as client:
                self._compact(client)
        except (OSError, ProtocolError, CallError) as bad:
            self.errors[f"compaction: {bad}"] = self.errors.get(f"compaction: {bad}", 0) + 1

    def _compact(self, client: SyncClient) -> None:
        put = rpc_pb2.PutRequest(key=COMPACT_KEY, value=b"%d" % self._revision)
        got = rpc_pb2.RangeRequest(key=COMPACT_KEY)
        ask = rpc_pb2.TxnRequest(
            compare=[
                rpc_pb2.Compare(
                    key=COMPACT_KEY,
                    target=rpc_pb2.Compare.VERSION,
                    result=rpc_pb2.Compare.EQUAL,
                    version=self._version,
                )
            ],
            success=[rpc_pb2.RequestOp(request_put=put)],
            failure=[rpc_pb2.RequestOp(request_range=got)],
        )
        body = client.call(etcd_requests.TXN, ask.SerializeToString(), TIMEOUT)
        answer = rpc_pb2.TxnResponse.FromString(body)
        revision, self._revision = self._revision, answer.header.revision
        if not answer.succeeded:
            self._version = answer.responses[0].response_range.kvs[0].version
            return
        self._version += 1
        if revision:
            started = monotonic()
            client.call(
                etcd_requests.COMPACT,
                rpc_pb2.CompactionRequest(revision=revision).SerializeToString(),
                PATIENCE,
            )
            self.compactions += 1
            self.compaction_seconds = max(self.compaction_seconds, monotonic() - started)
