"""Thin etcd v3 client on grpcio: one method per call, messages in and out, nothing hidden.

Calls return the response message and raise `grpc.RpcError` on any status but OK. A thread reads each stream
into a queue, so that a test can wait for the next response with a timeout and stop reading at will.
"""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import grpc

from kine.proto import kv_pb2 as kv
from kine.proto import rpc_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CALL_TIMEOUT = 30.0  # seconds; a stuck server fails the test that called it
STREAM_TIMEOUT = 30.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # one channel per client, so that closing it closes the connection
    ("grpc.enable_retries", 0),
)

PUT = kv.Event.PUT
DELETE = kv.Event.DELETE

EVERY_KEY = b"\0"  # as key: the smallest; as range_end: no upper bound


def prefix_end(prefix: bytes) -> bytes:
    """The smallest key above every key with this prefix; `EVERY_KEY` if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else EVERY_KEY


def keys_of(answer: pb.RangeResponse) -> list[bytes]:
    return [kv.key for kv in answer.kvs]


@contextmanager
def refused(code: grpc.StatusCode, text: str) -> Iterator[None]:
    """Asserts that the call inside ends with this status and exactly this text."""
    try:
        yield
    except grpc.RpcError as error:
        got = f"{error.code().name} {error.details()!r}"
    else:
        got = "an answer"
    due = f"{code.name} {text!r}"
    assert got == due, f"got {got}, where {due} is due"


class Stream:
    """One streaming call: requests are sent immediately, responses are queued."""

    def __init__(self, call: Any, name: str) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reading = threading.Event()
        self._reading.set()
        self.call = call(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name=name, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while True:
                self._reading.wait()
                self._answers.put(next(self.call))
        except StopIteration:
            self._answers.put(None)
        except grpc.RpcError as error:
            self._answers.put(error)

    def send(self, request: Any) -> None:
        self._requests.put(request)

    def half_close(self) -> None:
        """Signals that no more requests will come."""
        self._requests.put(None)

    def pause(self) -> None:
        """Stops reading responses off the connection, after at most one more."""
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    def receive(self, timeout: float = STREAM_TIMEOUT) -> Any:
        """The next response. Raises `queue.Empty` after `timeout`, EOFError when the stream ended with OK."""
        answer = self._answers.get(timeout=timeout)
        if answer is None:
            raise EOFError
        if isinstance(answer, grpc.RpcError):
            raise answer
        return answer

    def close(self) -> None:
        self._reading.set()
        self.call.cancel()
        self._requests.put(None)
        self._reader.join(STREAM_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WatchStream(Stream):
    """The Watch call, with methods for the requests a client sends on it."""

    def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> pb.WatchResponse:
        """Opens a watch and returns its created response; no other watch may have events in flight."""
        self.ask(key, range_end, **fields)
        answer = self.receive()
        assert answer.created, f"expected a created answer, got {answer}"
        return answer

    def ask(self, key: bytes, range_end: bytes = b"", **fields: Any) -> None:
        """Sends a create request without waiting for the response."""
        create = pb.WatchCreateRequest(key=key, range_end=range_end, **fields)
        self.send(pb.WatchRequest(create_request=create))

    def cancel(self, watch_id: int) -> None:
        self.send(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    def events(self, count: int, timeout: float = STREAM_TIMEOUT) -> list[kv.Event]:
        """The next `count` events of a stream with one watch, from however many responses they arrive in."""
        events: list[kv.Event] = []
        while len(events) < count:
            events.extend(self.receive(timeout).events)
        assert len(events) == count, f"expected {count} events, got {len(events)}"
        return events

    def events_by_watch(self, count: int, timeout: float = STREAM_TIMEOUT) -> dict[int, list[kv.Event]]:
        """The next `count` events of a stream with many watches, by watch id."""
        by_watch: dict[int, list[kv.Event]] = {}
        seen = 0
        while seen < count:
            answer = self.receive(timeout)
            by_watch.setdefault(answer.watch_id, []).extend(answer.events)
            seen += len(answer.events)
        return by_watch


class Client:
    """One connection to a server at `address` (`host:port` or `unix:path`)."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.channel = (
            grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(address, CHANNEL_OPTIONS)
        )
        self._unary: dict[str, Any] = {}

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, method: str, request: Any, answer: Any, timeout: float = 0) -> Any:
        """Makes a unary call of `method`, such as `KV/Range`, in the package `etcdserverpb`."""
        stub = self._unary.get(method)
        if stub is None:
            stub = self._unary[method] = self.channel.unary_unary(
                f"/etcdserverpb.{method}", type(request).SerializeToString, answer.FromString
            )
        return stub(request, timeout=timeout or self.timeout)

    # ---- KV

    def range(self, key: bytes, range_end: bytes = b"", **fields: Any) -> pb.RangeResponse:
        request = pb.RangeRequest(key=key, range_end=range_end, **fields)
        return self.call("KV/Range", request, pb.RangeResponse)

    def range_stream(self, key: bytes, range_end: bytes = b"", **fields: Any) -> Iterator[pb.RangeResponse]:
        """Yields the parts of the response as they arrive."""
        stub = self.channel.unary_stream(
            "/etcdserverpb.KV/RangeStream",
            pb.RangeRequest.SerializeToString,
            pb.RangeStreamResponse.FromString,
        )
        request = pb.RangeRequest(key=key, range_end=range_end, **fields)
        return (part.range_response for part in stub(request, timeout=max(60.0, self.timeout)))

    def put(self, key: bytes, value: bytes = b"", **fields: Any) -> pb.PutResponse:
        return self.call("KV/Put", pb.PutRequest(key=key, value=value, **fields), pb.PutResponse)

    def delete(self, key: bytes, range_end: bytes = b"", **fields: Any) -> pb.DeleteRangeResponse:
        request = pb.DeleteRangeRequest(key=key, range_end=range_end, **fields)
        return self.call("KV/DeleteRange", request, pb.DeleteRangeResponse)

    def txn(
        self,
        compare: Sequence[pb.Compare] = (),
        success: Sequence[pb.RequestOp] = (),
        failure: Sequence[pb.RequestOp] = (),
    ) -> pb.TxnResponse:
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        return self.call("KV/Txn", request, pb.TxnResponse)

    def compact(self, revision: int, physical: bool = False) -> pb.CompactionResponse:
        request = pb.CompactionRequest(revision=revision, physical=physical)
        return self.call("KV/Compact", request, pb.CompactionResponse)

    def get(self, key: bytes, **fields: Any) -> kv.KeyValue | None:
        """The one kv under `key`, or None."""
        kvs = self.range(key, **fields).kvs
        return kvs[0] if kvs else None

    def revision(self) -> int:
        """The store's current revision."""
        return self.range(b"no such key", serializable=False).header.revision

    # ---- Watch and lease

    def watch(self) -> WatchStream:
        call = self.channel.stream_stream(
            "/etcdserverpb.Watch/Watch", pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString
        )
        return WatchStream(call, "watch")

    def grant(self, ttl: int, lease_id: int = 0) -> pb.LeaseGrantResponse:
        request = pb.LeaseGrantRequest(TTL=ttl, ID=lease_id)
        return self.call("Lease/LeaseGrant", request, pb.LeaseGrantResponse)

    def revoke(self, lease_id: int) -> pb.LeaseRevokeResponse:
        return self.call("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id), pb.LeaseRevokeResponse)

    def time_to_live(self, lease_id: int, keys: bool = False) -> pb.LeaseTimeToLiveResponse:
        request = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        return self.call("Lease/LeaseTimeToLive", request, pb.LeaseTimeToLiveResponse)

    def leases(self) -> set[int]:
        answer = self.call("Lease/LeaseLeases", pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse)
        return {lease.ID for lease in answer.leases}

    def keepalive(self) -> Stream:
        call = self.channel.stream_stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            pb.LeaseKeepAliveRequest.SerializeToString,
            pb.LeaseKeepAliveResponse.FromString,
        )
        return Stream(call, "keepalive")

    def keep_alive_once(self, lease_id: int) -> pb.LeaseKeepAliveResponse:
        with self.keepalive() as stream:
            stream.send(pb.LeaseKeepAliveRequest(ID=lease_id))
            return stream.receive()

    # ---- Maintenance and cluster

    def status(self) -> pb.StatusResponse:
        return self.call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)

    def alarms(self) -> pb.AlarmResponse:
        return self.call("Maintenance/Alarm", pb.AlarmRequest(), pb.AlarmResponse)

    def defragment(self) -> pb.DefragmentResponse:
        return self.call("Maintenance/Defragment", pb.DefragmentRequest(), pb.DefragmentResponse)

    def hash(self) -> pb.HashResponse:
        return self.call("Maintenance/Hash", pb.HashRequest(), pb.HashResponse)

    def hash_kv(self, revision: int = 0) -> pb.HashKVResponse:
        request = pb.HashKVRequest(revision=revision)
        return self.call("Maintenance/HashKV", request, pb.HashKVResponse)

    def snapshot(self) -> list[pb.SnapshotResponse]:
        stub = self.channel.unary_stream(
            "/etcdserverpb.Maintenance/Snapshot",
            pb.SnapshotRequest.SerializeToString,
            pb.SnapshotResponse.FromString,
        )
        return list(stub(pb.SnapshotRequest(), timeout=60.0))

    def members(self) -> pb.MemberListResponse:
        return self.call("Cluster/MemberList", pb.MemberListRequest(linearizable=True), pb.MemberListResponse)
