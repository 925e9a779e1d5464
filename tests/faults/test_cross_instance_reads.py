"""Cross-instance linearizability: the next call at another instance sees a change without another write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client, prefix_end
from tests.txn_ops import get, modified, put

if TYPE_CHECKING:
    from tests.faults.conftest import Pair

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
NO_LEASE = "etcdserver: requested lease not found"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return str(refused.value.details())


@pytest.fixture
def compacted(pair: Pair, prefix: bytes) -> int:
    """A revision that existed when the second instance last answered, and was compacted at the first."""
    revisions = [pair.one.put(prefix, b"%d" % number).header.revision for number in range(3)]
    assert pair.other.range(prefix, revision=revisions[0]).kvs[0].value == b"0"
    pair.one.compact(revisions[2])
    return int(revisions[0])


QUESTIONS: dict[str, Callable[[Client, bytes, int], object]] = {
    "get": lambda client, key, revision: client.range(key, revision=revision),
    "list": lambda client, key, revision: client.range(key, prefix_end(key), revision=revision, limit=1),
    "count": lambda client, key, revision: client.range(key, revision=revision, count_only=True),
    "txn": lambda client, key, revision: client.txn([], [get(key, revision=revision)], []),
    "write": lambda client, key, revision: client.txn([], [get(key, revision=revision), put(key + b"2")], []),
    "compact": lambda client, key, revision: client.compact(revision),
    "hash": lambda client, key, revision: client.hash_kv(revision),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_compaction(pair: Pair, prefix: bytes, compacted: int, question: str) -> None:
    assert refusal(lambda: QUESTIONS[question](pair.other, prefix, compacted)) == COMPACTED
    assert refusal(lambda: pair.other.range(prefix, revision=compacted, serializable=True)) == COMPACTED


def test_a_compaction_ends_a_watch_of_the_past(pair: Pair, prefix: bytes, compacted: int) -> None:
    with pair.other.watch() as watch:
        watch.create(prefix, start_revision=compacted)
        assert watch.receive().compact_revision == compacted + 2


@pytest.fixture
def revoked(pair: Pair) -> int:
    lease = pair.one.grant(600).ID
    assert pair.other.time_to_live(lease).grantedTTL == 600
    assert pair.other.keep_alive_once(lease).TTL == 600
    pair.one.revoke(lease)
    return int(lease)


def test_a_revoked_lease_lives_no_more(pair: Pair, revoked: int) -> None:
    assert pair.other.time_to_live(revoked).TTL == -1


def test_a_revoked_lease_is_not_kept_alive(pair: Pair, revoked: int) -> None:
    assert pair.other.keep_alive_once(revoked).TTL == 0


def test_a_revoked_lease_takes_no_put(pair: Pair, prefix: bytes, revoked: int) -> None:
    assert refusal(lambda: pair.other.put(prefix, lease=revoked)) == NO_LEASE


def test_a_revoked_lease_takes_no_creation(pair: Pair, prefix: bytes, revoked: int) -> None:
    create = modified(prefix, "=", 0)
    assert refusal(lambda: pair.other.txn([create], [put(prefix, lease=revoked)], [])) == NO_LEASE


def test_a_revoked_lease_cannot_be_revoked(pair: Pair, revoked: int) -> None:
    assert refusal(lambda: pair.other.revoke(revoked)) == NO_LEASE


def test_a_revoked_leases_id_can_be_granted(pair: Pair, prefix: bytes, revoked: int) -> None:
    assert pair.other.grant(60, lease_id=revoked).TTL == 60
    assert pair.one.put(prefix, lease=revoked).header.revision > 0
    pair.other.revoke(revoked)
    assert pair.one.get(prefix) is None
