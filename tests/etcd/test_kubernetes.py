"""Every kind of request that kube-apiserver's storage layer sends, one test each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from tests import txn_ops
from tests.client import DELETE, PUT, Client, WatchStream, keys_of, prefix_end, refused

if TYPE_CHECKING:
    from kine.proto import rpc_pb2 as pb

COMPACT_KEY = b"compact_rev_key"


def create(client: Client, key: bytes, value: bytes = b"v", **fields: int) -> pb.TxnResponse:
    return client.txn([txn_ops.modified(key, "=", 0)], [txn_ops.put(key, value, **fields)])


def update(client: Client, key: bytes, revision: int, value: bytes, **fields: int) -> pb.TxnResponse:
    return client.txn(
        [txn_ops.modified(key, "=", revision)], [txn_ops.put(key, value, **fields)], [txn_ops.get(key)]
    )


def delete(client: Client, key: bytes, revision: int) -> pb.TxnResponse:
    return client.txn([txn_ops.modified(key, "=", revision)], [txn_ops.delete(key)], [txn_ops.get(key)])


# ---- create


def test_create_of_a_new_key_puts_it(client: Client, prefix: bytes) -> None:
    answer = create(client, prefix + b"pod")

    assert answer.succeeded
    assert [response.WhichOneof("response") for response in answer.responses] == ["response_put"]
    kv = client.get(prefix + b"pod")
    assert (kv.create_revision, kv.mod_revision, kv.version) == (
        answer.header.revision,
        answer.header.revision,
        1,
    )


def test_create_of_an_existing_key_fails_without_responses(client: Client, prefix: bytes) -> None:
    revision = create(client, prefix + b"pod").header.revision

    answer = create(client, prefix + b"pod", b"other")

    assert (answer.succeeded, len(answer.responses), answer.header.revision) == (False, 0, revision)
    assert client.get(prefix + b"pod").value == b"v"


def test_create_after_a_delete_succeeds(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    delete(client, prefix + b"pod", created)

    answer = create(client, prefix + b"pod", b"second life")

    assert answer.succeeded
    kv = client.get(prefix + b"pod")
    assert (kv.create_revision, kv.version) == (answer.header.revision, 1)


def test_create_with_a_lease_attaches_it(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID

    create(client, prefix + b"event", lease=lease)

    assert client.get(prefix + b"event").lease == lease
    assert list(client.time_to_live(lease, keys=True).keys) == [prefix + b"event"]
    client.revoke(lease)


def test_create_or_get_of_a_new_key_puts_it(client: Client, prefix: bytes) -> None:
    key = prefix + b"pod"

    answer = client.txn([txn_ops.modified(key, "=", 0)], [txn_ops.put(key, b"v")], [txn_ops.get(key)])

    assert answer.succeeded
    assert answer.responses[0].HasField("response_put")
    kv = client.get(key)
    revision = answer.header.revision
    assert (kv.value, kv.version, kv.create_revision, kv.mod_revision) == (b"v", 1, revision, revision)


def test_create_or_get_of_an_existing_key_returns_it(client: Client, prefix: bytes) -> None:
    key = prefix + b"pod"
    create(client, key, b"first")

    answer = client.txn([txn_ops.modified(key, "=", 0)], [txn_ops.put(key, b"v")], [txn_ops.get(key)])

    assert not answer.succeeded
    (kv,) = answer.responses[0].response_range.kvs
    assert kv == client.get(key)


def test_delete_of_an_absent_key_at_revision_0_deletes_nothing(client: Client, prefix: bytes) -> None:
    revision = client.put(prefix + b"other").header.revision

    answer = client.txn([txn_ops.modified(prefix + b"pod", "=", 0)], [txn_ops.delete(prefix + b"pod")])

    assert (answer.succeeded, answer.header.revision) == (True, revision)
    assert answer.responses[0].response_delete_range.deleted == 0
    assert client.range(prefix, prefix_end(prefix)).header.revision == revision


def test_create_and_update_over_the_size_limit_are_refused(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    too_large = b"x" * 1_600_000

    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
        create(client, prefix + b"other", too_large)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large"):
        update(client, prefix + b"pod", created, too_large)

    assert client.get(prefix + b"pod").mod_revision == created
    assert client.get(prefix + b"other") is None


# ---- update


def test_update_at_the_current_revision_succeeds(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision

    answer = update(client, prefix + b"pod", created, b"new")

    assert answer.succeeded
    assert answer.responses[0].HasField("response_put")
    kv = client.get(prefix + b"pod")
    assert (kv.value, kv.create_revision, kv.mod_revision, kv.version) == (
        b"new",
        created,
        answer.header.revision,
        2,
    )


def test_update_conflict_returns_current_kv(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    update(client, prefix + b"pod", created, b"theirs")

    answer = update(client, prefix + b"pod", created, b"ours")

    assert not answer.succeeded
    (kv,) = answer.responses[0].response_range.kvs
    assert kv == client.get(prefix + b"pod")
    assert kv.value == b"theirs"


def test_update_of_a_deleted_key_returns_none(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    delete(client, prefix + b"pod", created)

    answer = update(client, prefix + b"pod", created, b"ours")

    assert not answer.succeeded
    assert answer.responses[0].HasField("response_range")
    assert len(answer.responses[0].response_range.kvs) == 0


def test_update_of_a_recreated_key_at_its_old_revision_fails(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    delete(client, prefix + b"pod", created)
    create(client, prefix + b"pod", b"second life")

    assert not update(client, prefix + b"pod", created, b"ours").succeeded


def test_update_with_revision_zero_creates(client: Client, prefix: bytes) -> None:
    assert update(client, prefix + b"pod", 0, b"v").succeeded
    assert client.get(prefix + b"pod").version == 1


def test_failed_update_takes_no_revision(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    revision = update(client, prefix + b"pod", created, b"theirs").header.revision

    assert update(client, prefix + b"pod", created, b"ours").header.revision == revision


def test_hundred_updates_in_a_row_each_see_the_one_before(client: Client, prefix: bytes) -> None:
    revision = create(client, prefix + b"pod").header.revision

    for number in range(100):
        answer = update(client, prefix + b"pod", revision, b"%d" % number)
        assert answer.succeeded
        revision = answer.header.revision

    kv = client.get(prefix + b"pod")
    assert (kv.value, kv.version, kv.mod_revision) == (b"99", 101, revision)


# ---- delete


def test_delete_at_the_current_revision_succeeds(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision

    answer = delete(client, prefix + b"pod", created)

    assert answer.succeeded
    deleted = answer.responses[0].response_delete_range
    assert deleted.deleted == 1
    assert client.get(prefix + b"pod") is None


def test_delete_with_prev_kv_returns_what_was_deleted(client: Client, prefix: bytes) -> None:
    key = prefix + b"pod"
    created = create(client, key).header.revision
    before = client.get(key)

    answer = client.txn(
        [txn_ops.modified(key, "=", created)], [txn_ops.delete(key, prev_kv=True)], [txn_ops.get(key)]
    )

    assert list(answer.responses[0].response_delete_range.prev_kvs) == [before]


def test_delete_takes_a_new_revision(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision

    assert delete(client, prefix + b"pod", created).header.revision > created


def test_delete_conflict_returns_current_kv(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    update(client, prefix + b"pod", created, b"theirs")

    answer = delete(client, prefix + b"pod", created)

    assert not answer.succeeded
    assert list(answer.responses[0].response_range.kvs) == [client.get(prefix + b"pod")]


def test_delete_of_a_deleted_key_returns_none(client: Client, prefix: bytes) -> None:
    created = create(client, prefix + b"pod").header.revision
    delete(client, prefix + b"pod", created)

    answer = delete(client, prefix + b"pod", created)

    assert not answer.succeeded
    assert len(answer.responses[0].response_range.kvs) == 0


def test_delete_of_any_revision_returns_the_kv_and_the_deletion(client: Client, prefix: bytes) -> None:
    key = prefix + b"pod"
    create(client, key)
    before = client.get(key)

    answer = client.txn(success=[txn_ops.get(key), txn_ops.delete(key)])

    assert answer.succeeded
    read, deletion = answer.responses
    assert list(read.response_range.kvs) == [before]
    assert deletion.response_delete_range.deleted == 1
    assert client.get(key) is None


def test_delete_of_any_revision_of_an_absent_key_deletes_none(client: Client, prefix: bytes) -> None:
    key = prefix + b"pod"

    answer = client.txn(success=[txn_ops.get(key), txn_ops.delete(key)])

    read, deletion = answer.responses
    assert (len(read.response_range.kvs), deletion.response_delete_range.deleted) == (0, 0)


# ---- get and list


def test_get_of_an_absent_object_tells_the_stores_revision(client: Client, prefix: bytes) -> None:
    revision = create(client, prefix + b"pod").header.revision

    assert client.range(prefix + b"absent").header.revision == revision


def test_list_by_page_as_the_api_server_pages(client: Client, prefix: bytes) -> None:
    names = [prefix + b"pod-%03d" % number for number in range(25)]
    for name in names:
        create(client, name)

    end, start, revision, listed, remaining = prefix_end(prefix), prefix, 0, [], []
    while True:
        page = client.range(start, end, limit=10, revision=revision)
        revision = revision or page.header.revision
        listed += keys_of(page)
        remaining.append(page.count - len(page.kvs))
        if not page.more:
            break
        start = page.kvs[-1].key + b"\0"

    assert listed == names
    assert remaining == [15, 5, 0]


def test_page_past_compaction_is_refused(client: Client, prefix: bytes) -> None:
    for number in range(5):
        create(client, prefix + b"pod-%d" % number)
    page = client.range(prefix, prefix_end(prefix), limit=2)
    client.compact(create(client, prefix + b"pod-9").header.revision)

    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        client.range(page.kvs[-1].key + b"\0", prefix_end(prefix), limit=2, revision=page.header.revision)


def test_count_for_object_metrics(client: Client, prefix: bytes) -> None:
    for number in range(5):
        create(client, prefix + b"pod-%d" % number)

    assert client.range(prefix, prefix_end(prefix), count_only=True).count == 5


def test_health_check_key_can_be_read(client: Client, needs) -> None:
    needs("has_health_key")

    assert client.get(b"/registry/health").value == b'{"health":"true"}'


def test_health_check_of_an_absent_key_answers(client: Client) -> None:
    assert client.range(b"health").count == 0


# ---- list, then watch


def test_list_then_watch_misses_nothing(client: Client, watch: WatchStream, prefix: bytes) -> None:
    create(client, prefix + b"a")
    listed = client.range(prefix, prefix_end(prefix))
    second = create(client, prefix + b"b").header.revision
    deleted = delete(client, prefix + b"a", listed.kvs[0].mod_revision).header.revision

    watch.create(prefix, prefix_end(prefix), start_revision=listed.header.revision + 1, prev_kv=True)

    put, deletion = watch.events(2)
    assert (put.type, put.kv.key, put.kv.mod_revision) == (PUT, prefix + b"b", second)
    assert (deletion.type, deletion.kv.key, deletion.kv.mod_revision) == (DELETE, prefix + b"a", deleted)
    assert deletion.prev_kv == listed.kvs[0]


def test_create_is_told_from_update_by_its_revisions(
    client: Client, watch: WatchStream, prefix: bytes
) -> None:
    watch.create(prefix, prefix_end(prefix), prev_kv=True)
    created = create(client, prefix + b"pod").header.revision
    update(client, prefix + b"pod", created, b"new")

    first, second = watch.events(2)

    assert first.kv.create_revision == first.kv.mod_revision
    assert second.kv.create_revision == created < second.kv.mod_revision
    assert second.prev_kv.value == b"v"


# ---- compaction lock


def lock(client: Client, version: int, value: bytes) -> pb.TxnResponse:
    return client.txn(
        [txn_ops.version(COMPACT_KEY, "=", version)],
        [txn_ops.put(COMPACT_KEY, value)],
        [txn_ops.get(COMPACT_KEY)],
    )


@pytest.fixture
def lock_version(client: Client) -> int:
    """The version of the compaction lock so far."""
    kv = client.get(COMPACT_KEY)
    return kv.version if kv else 0


def test_compaction_lock_is_taken_at_its_version(client: Client, lock_version: int) -> None:
    answer = lock(client, lock_version, b"100")

    assert answer.succeeded
    assert answer.responses[0].HasField("response_put")
    kv = client.get(COMPACT_KEY)
    assert (kv.value, kv.version, kv.mod_revision) == (b"100", lock_version + 1, answer.header.revision)


def test_compaction_lock_counts_its_version_up_by_one(client: Client, lock_version: int) -> None:
    lock(client, lock_version, b"100")
    lock(client, lock_version + 1, b"200")

    kv = client.get(COMPACT_KEY)

    assert (kv.key, kv.value, kv.version) == (COMPACT_KEY, b"200", lock_version + 2)


def test_compaction_lock_conflict_returns_the_winners_kv(client: Client, lock_version: int) -> None:
    lock(client, lock_version, b"100")

    answer = lock(client, lock_version, b"200")

    assert not answer.succeeded
    (kv,) = answer.responses[0].response_range.kvs
    assert (kv.key, kv.value, kv.version) == (COMPACT_KEY, b"100", lock_version + 1)


def test_compaction_by_lock_then_compact(client: Client, prefix: bytes, lock_version: int) -> None:
    old = create(client, prefix + b"pod").header.revision
    update(client, prefix + b"pod", old, b"new")
    target = client.revision()
    lock(client, lock_version, b"%d" % target)

    client.compact(target)

    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"):
        client.range(prefix + b"pod", revision=old)


def test_compaction_lock_can_be_put_and_read(client: Client, lock_version: int) -> None:
    revision = client.put(COMPACT_KEY, b"300").header.revision

    kv = client.get(COMPACT_KEY)

    assert (kv.key, kv.value, kv.version, kv.mod_revision) == (
        COMPACT_KEY,
        b"300",
        lock_version + 1,
        revision,
    )


def test_compaction_lock_survives_compaction(client: Client, lock_version: int) -> None:
    lock(client, lock_version, b"100")
    client.compact(lock(client, lock_version + 1, b"200").header.revision, physical=True)

    kv = client.get(COMPACT_KEY)

    assert (kv.value, kv.version) == (b"200", lock_version + 2)


def test_compaction_lock_can_be_watched(client: Client, watch: WatchStream, lock_version: int) -> None:
    watch.create(COMPACT_KEY, prev_kv=True)
    revision = lock(client, lock_version, b"100").header.revision

    (event,) = watch.events(1)

    assert (event.type, event.kv.key, event.kv.value) == (PUT, COMPACT_KEY, b"100")
    assert (event.kv.version, event.kv.mod_revision) == (lock_version + 1, revision)


def test_compaction_lock_can_be_watched_from_its_revision(
    client: Client, watch: WatchStream, lock_version: int
) -> None:
    lock(client, lock_version, b"100")
    first = client.get(COMPACT_KEY)
    lock(client, lock_version + 1, b"200")

    watch.create(COMPACT_KEY, start_revision=first.mod_revision, prev_kv=True)

    events = watch.events(2)
    assert [event.kv.value for event in events] == [b"100", b"200"]
    assert events[1].prev_kv == first


def test_compaction_lock_can_be_read_in_the_past(client: Client, lock_version: int) -> None:
    revision = lock(client, lock_version, b"100").header.revision
    lock(client, lock_version + 1, b"200")

    kv = client.get(COMPACT_KEY, revision=revision)

    assert (kv.value, kv.version) == (b"100", lock_version + 1)


def test_compaction_lock_cannot_be_written_by_the_name_of_its_rows(
    client: Client, lock_version: int, needs
) -> None:
    needs("redirects_compact_rev_key")
    lock(client, lock_version, b"100")
    reason = "etcdserver: compact_rev_key_apiserver is where kine keeps compact_rev_key: write that"

    for attempt in (client.put, lambda key: client.txn([], [txn_ops.put(key)])):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, reason):
            attempt(b"compact_rev_key_apiserver")

    assert client.get(COMPACT_KEY).value == b"100"
