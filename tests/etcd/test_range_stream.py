"""RangeStream (etcd 3.7, Kubernetes 1.37): a range in parts, all at one revision."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import EVERY_KEY, Client, keys_of, prefix_end, refused
from tests.servers import Backend

Order = pb.RangeRequest
MOST = 1536 * 1024  # bytes of a part, as of a request
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


@pytest.fixture(autouse=True)
def streams(needs: Any) -> None:
    needs("streams_ranges")


def streamed(client: Client, key: bytes, end: bytes = b"", **fields: Any) -> pb.RangeResponse:
    """The parts put together; only the last has more fields than keys."""
    *parts, last = client.range_stream(key, end, **fields)
    for part in parts:
        assert part.kvs
        assert not part.HasField("header")
        assert (part.more, part.count) == (False, 0)
    assert last.header.cluster_id
    assert last.header.member_id
    assert last.header.raft_term
    assert last.kvs or not parts
    whole = pb.RangeResponse(header=last.header, more=last.more, count=last.count)
    for part in (*parts, last):
        whole.kvs.extend(part.kvs)
    return whole


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"limit": 2},
        {"limit": 5},
        {"limit": 6},
        {"limit": 2**63 - 1},
        {"keys_only": True},
        {"keys_only": True, "limit": 3},
        {"count_only": True},
        {"serializable": True},
        {"sort_order": Order.ASCEND},
    ],
    ids=str,
)
def test_stream_tells_what_a_range_does(
    client: Client, prefix: bytes, five: list[bytes], fields: dict[str, Any]
) -> None:
    assert streamed(client, prefix, prefix_end(prefix), **fields) == client.range(
        prefix, prefix_end(prefix), **fields
    )


def test_one_key_and_none(client: Client, prefix: bytes, five: list[bytes]) -> None:
    assert streamed(client, five[1]) == client.range(five[1])
    assert streamed(client, prefix + b"no such key") == client.range(prefix + b"no such key")
    empty = prefix + b"~"
    assert streamed(client, empty, prefix_end(empty)) == client.range(empty, prefix_end(empty))


def test_every_key_of_the_store(client: Client, five: list[bytes]) -> None:
    keys = keys_of(streamed(client, EVERY_KEY, EVERY_KEY))

    assert set(five) <= set(keys)
    assert keys == sorted(keys)


def test_revision_of_the_past(client: Client, prefix: bytes, five: list[bytes]) -> None:
    before = client.range(prefix, prefix_end(prefix))
    client.delete(five[0])
    now = client.put(five[1], b"changed").header.revision

    past = streamed(client, prefix, prefix_end(prefix), revision=before.header.revision)

    assert list(past.kvs) == list(before.kvs)
    assert past.header.revision >= now  # the store's current one, as in a Range


def test_revision_that_cannot_be_read(client: Client, prefix: bytes) -> None:
    first = client.put(prefix + b"k", b"1").header.revision
    client.compact(client.put(prefix + b"k", b"2").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, COMPACTED):
        list(client.range_stream(prefix, prefix_end(prefix), revision=first))
    with refused(grpc.StatusCode.OUT_OF_RANGE, FUTURE):
        list(client.range_stream(prefix, prefix_end(prefix), revision=client.revision() + 1000))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sort_order": Order.DESCEND}, "RangeStream does not support custom sort orders"),
        (
            {"sort_order": Order.ASCEND, "sort_target": Order.MOD},
            "RangeStream does not support custom sort orders",
        ),
        ({"min_mod_revision": 1}, "RangeStream does not support revision filters"),
        ({"max_mod_revision": 1}, "RangeStream does not support revision filters"),
        ({"min_create_revision": 1}, "RangeStream does not support revision filters"),
        ({"max_create_revision": 1}, "RangeStream does not support revision filters"),
    ],
    ids=str,
)
def test_what_is_not_streamed(client: Client, prefix: bytes, fields: dict[str, Any], text: str) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED, text):
        list(client.range_stream(prefix, prefix_end(prefix), **fields))


def test_order_by_another_target_is_refused_where_etcd_answers_wrongly(
    client: Client, prefix: bytes, needs: Any
) -> None:
    needs("streams_outlive_compaction")  # not etcd itself

    with refused(grpc.StatusCode.UNIMPLEMENTED, "RangeStream does not support custom sort orders"):
        list(client.range_stream(prefix, prefix_end(prefix), sort_target=Order.MOD))


def test_empty_key_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided"):
        list(client.range_stream(b"", b"z"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: invalid sort option"):
        list(client.range_stream(b"a", b"z", sort_order=7))  # type: ignore[arg-type]  # no such order


LARGE = 700_000  # bytes of a value
KEYS = 32


def test_a_long_range_is_told_in_parts_that_compaction_does_not_end(
    own_server: Any, backend: Backend, needs: Any
) -> None:
    needs("streams_outlive_compaction")
    server = own_server(flags=("--value-cache-bytes=1MiB",))
    with Client(server.address) as client:
        written = {b"/a/%02d" % number: b"%02d" % number * (LARGE // 2) for number in range(KEYS)}
        for key, value in written.items():
            client.put(key, value)
        begun = client.revision()
        parts = client.range_stream(b"/a/", b"/a0")
        told = [next(parts)]  # flow control keeps the server from sending the rest

        client.delete(b"/a/30")
        client.put(b"/a/31", b"changed")
        client.put(b"/a/33", b"new")
        client.compact(client.revision(), physical=True)
        client.put(b"/a/29", b"changed after it")
        told += parts

    assert all(part.ByteSize() <= MOST for part in told)
    assert {kv.key: kv.value for part in told for kv in part.kvs} == written
    assert [key for part in told for key in keys_of(part)] == sorted(written)
    assert (told[-1].header.revision, told[-1].count, told[-1].more) == (begun, KEYS, False)


@pytest.mark.parametrize("limit", [1, 3, 31, 32, 33])
def test_limit_of_a_long_range_is_exact(long_range: Client, limit: int) -> None:
    parts = list(long_range.range_stream(b"/a/", b"/a0", limit=limit))

    assert sum(len(part.kvs) for part in parts) == min(limit, KEYS)
    assert (parts[-1].count, parts[-1].more) == (KEYS, limit < KEYS)
    assert all(part.kvs for part in parts)


@pytest.fixture
def long_range(own_server: Any, backend: Backend) -> Any:
    if backend.kind not in {"memory", "sqlite"}:
        pytest.skip("the limit is not the database's")
    server = own_server(flags=("--value-cache-bytes=1MiB",))
    with Client(server.address) as client:
        for number in range(KEYS):
            client.put(b"/a/%02d" % number, bytes(LARGE))
        yield client
