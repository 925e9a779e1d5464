"""Any bytes to any method: a response or an error as etcd's, and a server that goes on.

`--fuzz 500 --fuzz-seed 0` sends more requests, generated from that seed; a failure names its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import DecodeError

from kine.proto import rpc_pb2 as pb
from tests.client import Client
from tests.hostile.corpus_sender import Ended, complaint, send
from tests.hostile.hostile_keys import every
from tests.hostile.hostile_messages import METHODS, Sent, deep
from tests.hostile.test_key_bytes import held
from tests.servers import any_bytes, etcd
from tests.servers.process import Instance

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

    from kine.proto.kv_pb2 import KeyValue
    from tests.conftest import Needs, StartOwn
    from tests.servers import Backend, Capabilities

KIND = {method.path: method.message for method in METHODS}
RESERVED = "etcdserver: compact_rev_key_apiserver is where kine keeps compact_rev_key: write that"
# What kine refuses, or reports differently: see docs/compatibility.md.
OWN_WAY = ("/etcdserverpb.Auth/", "/etcdserverpb.Cluster/", "/grpc.", "/v3lockpb.")
OWN_WAY += tuple(f"/etcdserverpb.Maintenance/{name}" for name in ("MoveLeader", "Downgrade", "Snapshot"))
if etcd.version() < (3, 7):
    OWN_WAY += ("/etcdserverpb.KV/RangeStream",)
EVERY = 100  # after this many requests a valid one must get the right response


# ---- requests that crash etcd 3.5.1, or to which kine responds differently on purpose


def decoded(sent: Sent) -> list[Message] | None:
    try:
        return [KIND[sent.method].FromString(message) for message in sent.messages]
    except DecodeError:
        return None


def sorted_out_of_bounds(message: Any) -> bool:
    if isinstance(message, pb.RangeRequest):
        return not (0 <= message.sort_order <= 2 and 0 <= message.sort_target <= 4)
    ops = [*message.success, *message.failure] if isinstance(message, pb.TxnRequest) else []
    return any(sorted_out_of_bounds(op.request_range) or sorted_out_of_bounds(op.request_txn) for op in ops)


def as_in_etcd(sent: Sent) -> bool:
    if sent.method.startswith(OWN_WAY):
        return False
    messages = decoded(sent)
    if messages is None:
        return False  # Go's parser accepts unknown groups, and depths, that others do not
    alarms = [each for each in messages if isinstance(each, pb.AlarmRequest)]
    if any(operations(each) > 128 for each in messages):
        return False  # etcd counts the operations of each level of nesting separately
    return not any(
        (each.action not in (pb.AlarmRequest.GET, pb.AlarmRequest.DEACTIVATE)) for each in alarms
    ) and not any(sorted_out_of_bounds(each) for each in messages)


def operations(message: Any) -> int:
    """The operations of a Txn, including those of nested ones; 0 for any other message."""
    if not isinstance(message, pb.TxnRequest):
        return 0
    within = (op.request_txn for op in (*message.success, *message.failure) if op.HasField("request_txn"))
    most = max(len(message.compare), len(message.success), len(message.failure))
    return most + sum(map(operations, within))


# ---- the tests


@pytest.fixture
def reference(backend: Backend, tmp_path: Path) -> Iterator[Client | None]:
    """A real etcd, where its responses can be compared with the server's."""
    (real,) = etcd.BACKENDS
    if real.missing() or backend.capabilities.holds_key is not any_bytes:
        yield None
        return
    instance = real.start(tmp_path / "etcd")
    with Client(instance.address) as client:
        yield client
    instance.kill()


def begin(client: Client) -> None:
    """Makes revisions 1 to 3 compacted, with the next ones present."""
    for number in range(8):
        client.put(b"/first", b"%d" % number)
    client.compact(4)


@pytest.mark.quick_on("sqlite-http2", "passthrough", "postgres", "mysql")
@pytest.mark.timeout(3600)  # as long as --fuzz asks for
def test_every_request_is_answered_or_refused_as_by_etcd(
    own_server: StartOwn,
    reference: Client | None,
    sent: list[Sent],
    seed: int,
    needs: Needs,
    capabilities: Capabilities,
) -> None:
    needs("single_member_without_auth")
    server = own_server()
    with Client(server.address) as client:
        begin(client)
        if reference is not None:
            begin(reference)
        for number, each in enumerate(sent):
            ended = send(client.channel, each)
            why = complaint(ended)
            assert not why, f"{why} {ended[:2]} to {each} (--fuzz-seed {seed})"
            if reference is not None and as_in_etcd(each):
                due = send(reference.channel, each)
                assert agree(ended, due), f"{ended[:2]}, etcd: {due[:2]}, to {each} (--fuzz-seed {seed})"
            if number % EVERY == 0:
                client.put(b"/good", b"%d" % number)
                assert client.range(b"/good").kvs[0].value == b"%d" % number
        held(client, every(b"/odd/"))
        found = unleased(client)
    unharmed(server)
    if capabilities.survives_kill:
        server.kill()
        with Client(own_server().address) as client:
            assert unleased(client) == found


def unleased(client: Client) -> list[KeyValue]:
    """All keys without a lease, which do not expire."""
    return [kv for kv in client.range(b"\0", b"\0").kvs if not kv.lease]


# Leases with the shortest TTL expire meanwhile and delete their keys, at different moments on each server.
OF_LEASES = {
    "etcdserver: requested lease not found",
    "etcdserver: lease already exists",
    "etcdserver: key not found",
}


def agree(ended: Ended, due: Ended) -> bool:
    if "wireType" in due.text or "illegal tag" in due.text:
        return True  # for protobuf's own parsers a known number with another type is an unknown field
    if ended.text in OF_LEASES or due.text in OF_LEASES:
        return True  # where the lease still exists, the request may fail at the next check
    return ended[:2] == due[:2] or ended.text == RESERVED


def unharmed(server: Instance) -> None:
    log = server.log.read_text()
    assert server.running, log[-3000:]
    assert "Traceback" not in log
    assert '"error"' not in log


def test_transactions_nest_as_deep_as_a_message_may(client: Client, needs: Needs) -> None:
    needs("single_member_without_auth")

    def txn(depth: int) -> Ended:
        return send(client.channel, Sent("/etcdserverpb.KV/Txn", (deep(depth),)))

    assert txn(48).code == "OK"
    assert txn(51)[:2] == (
        "INTERNAL",
        "grpc: error unmarshalling request: no message of its type, or nested over 100 deep",
    )
