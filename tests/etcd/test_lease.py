"""Leases: grant, keep-alive, time to live, revocation, expiry, and the keys attached to them."""

from __future__ import annotations

import queue
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from kine.proto import rpc_pb2 as pb
from tests import txn_ops
from tests.client import DELETE, PUT, Client, WatchStream, keys_of, prefix_end, refused

NOT_FOUND = "etcdserver: requested lease not found"
UNKNOWN_LEASE = 0x7E57_0000_0000_0003
# Seconds of waiting each.
BY_THE_CLOCK = pytest.mark.quick_on("sqlite-http2", "postgres", "nats")
EXPIRY_SLACK = 30.0  # seconds after its TTL within which a lease must expire, even on a busy machine


# ---- grant


def test_grant_answers_with_an_id_and_the_ttl(client: Client) -> None:
    answer = client.grant(60)

    assert answer.ID > 0
    assert (answer.TTL, answer.error) == (60, "")
    client.revoke(answer.ID)


def test_granted_ids_differ(client: Client) -> None:
    ids = {client.grant(60).ID for _ in range(20)}

    assert len(ids) == 20
    for lease in ids:
        client.revoke(lease)


def test_client_may_choose_the_id(client: Client) -> None:
    assert client.grant(60, lease_id=4242).ID == 4242
    client.revoke(4242)


def test_taken_id_is_refused(client: Client) -> None:
    client.grant(60, lease_id=4243)

    with refused(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists"):
        client.grant(60, lease_id=4243)
    client.revoke(4243)


def test_revoked_id_is_free_again(client: Client) -> None:
    client.grant(60, lease_id=4244)
    client.revoke(4244)

    assert client.grant(60, lease_id=4244).ID == 4244
    client.revoke(4244)


def test_too_large_ttl_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: too large lease TTL"):
        client.grant(9_000_000_001)


def test_largest_ttl_is_granted(client: Client) -> None:
    answer = client.grant(9_000_000_000)

    assert answer.TTL == 9_000_000_000
    client.revoke(answer.ID)


@pytest.mark.parametrize("ttl", [0, -5])
def test_ttl_below_the_minimum_is_raised_to_it(client: Client, ttl: int, capabilities) -> None:
    answer = client.grant(ttl)

    assert capabilities.min_ttl == answer.TTL
    client.revoke(answer.ID)


def test_grant_takes_no_revision(client: Client, prefix: bytes) -> None:
    before = client.put(prefix + b"k", b"v").header.revision

    answer = client.grant(60)

    assert answer.header.revision == client.revision() == before
    client.revoke(answer.ID)


# ---- time to live


def test_time_to_live_tells_granted_and_remaining(client: Client) -> None:
    lease = client.grant(60).ID

    answer = client.time_to_live(lease)

    assert (answer.ID, answer.grantedTTL, len(answer.keys)) == (lease, 60, 0)
    assert 55 <= answer.TTL <= 60
    client.revoke(lease)


def test_time_to_live_counts_whole_seconds_that_remain(client: Client) -> None:
    """Some time has passed since the grant: of 60 seconds 59 whole ones are left."""
    for _ in range(20):
        before = time.monotonic()
        lease = client.grant(60).ID
        remaining = client.time_to_live(lease).TTL
        passed = time.monotonic() - before
        client.revoke(lease)

        assert int(60 - passed) <= remaining <= 59


def test_time_to_live_lists_keys_when_asked(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"b", b"v", lease=lease)
    client.put(prefix + b"a", b"v", lease=lease)

    assert sorted(client.time_to_live(lease, keys=True).keys) == [prefix + b"a", prefix + b"b"]
    assert len(client.time_to_live(lease).keys) == 0
    client.revoke(lease)


def test_time_to_live_of_an_unknown_lease_is_minus_one(client: Client) -> None:
    answer = client.time_to_live(UNKNOWN_LEASE, keys=True)

    assert (answer.ID, answer.TTL, answer.grantedTTL, len(answer.keys)) == (UNKNOWN_LEASE, -1, 0, 0)


def test_leases_lists_the_living(client: Client) -> None:
    kept, revoked = client.grant(60).ID, client.grant(60).ID
    client.revoke(revoked)

    leases = client.leases()

    assert kept in leases
    assert revoked not in leases
    client.revoke(kept)


def test_leases_are_listed_as_they_will_expire(client: Client) -> None:
    granted = [client.grant(60).ID for _ in range(20)]
    first = client.grant(40).ID

    answer = client.call("Lease/LeaseLeases", pb.LeaseLeasesRequest(), pb.LeaseLeasesResponse)

    listed = [lease.ID for lease in answer.leases if lease.ID in {*granted, first}]
    assert listed == [first, *granted]
    for lease in listed:
        client.revoke(lease)


# ---- keepalive


def test_keepalive_answers_with_the_granted_ttl(client: Client) -> None:
    lease = client.grant(60).ID

    answer = client.keep_alive_once(lease)

    assert (lease, 60) == (answer.ID, answer.TTL)
    client.revoke(lease)


def test_keepalive_of_an_unknown_lease_answers_zero(client: Client) -> None:
    answer = client.keep_alive_once(UNKNOWN_LEASE)

    assert (answer.ID, answer.TTL) == (UNKNOWN_LEASE, 0)


def test_keepalive_stream_serves_many_leases(client: Client) -> None:
    leases = [client.grant(60 + number).ID for number in range(20)]

    with client.keepalive() as stream:
        for lease in [*leases, UNKNOWN_LEASE]:
            stream.send(pb.LeaseKeepAliveRequest(ID=lease))
        answers = [stream.receive() for _ in range(21)]

    expected = [(lease, 60 + number) for number, lease in enumerate(leases)]
    assert [(answer.ID, answer.TTL) for answer in answers] == [*expected, (UNKNOWN_LEASE, 0)]
    for lease in leases:
        client.revoke(lease)


def test_half_closed_keepalive_stream_ends_well(client: Client) -> None:
    with client.keepalive() as stream:
        stream.half_close()

        with pytest.raises(EOFError):
            stream.receive()


@BY_THE_CLOCK
def test_keepalive_keeps_the_key(client: Client, watch: WatchStream, prefix: bytes, capabilities) -> None:
    ttl = capabilities.min_ttl + 1
    lease = client.grant(ttl).ID
    client.put(prefix + b"k", b"v", lease=lease)
    watch.create(prefix + b"k")

    with client.keepalive() as stream:
        for _ in range(6 * ttl):
            stream.send(pb.LeaseKeepAliveRequest(ID=lease))
            assert ttl == stream.receive().TTL
            with pytest.raises(queue.Empty):
                watch.receive(timeout=0.25)

    assert client.range(prefix + b"k").count == 1
    client.revoke(lease)


# ---- revoke


def test_revoke_deletes_the_leases_keys(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"a", b"v", lease=lease)
    client.put(prefix + b"b", b"v", lease=lease)
    client.put(prefix + b"c", b"v")

    client.revoke(lease)

    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"c"]


def test_revoke_is_seen_as_deletes(client: Client, watch: WatchStream, prefix: bytes) -> None:
    lease = client.grant(60).ID
    for key in (b"b", b"c", b"a"):
        client.put(prefix + key, b"v", lease=lease)
    watch.create(prefix, prefix_end(prefix), prev_kv=True)

    client.revoke(lease)

    events = watch.events(3)
    assert [(event.type, event.kv.key) for event in events] == [
        (DELETE, prefix + b"a"),
        (DELETE, prefix + b"b"),
        (DELETE, prefix + b"c"),
    ]
    assert {event.prev_kv.lease for event in events} == {lease}


def test_revoke_of_a_lease_without_keys_takes_no_revision(client: Client) -> None:
    lease = client.grant(60).ID
    before = client.revision()

    client.revoke(lease)

    assert client.revision() == before


def test_revoke_of_an_unknown_lease_is_refused(client: Client) -> None:
    with refused(grpc.StatusCode.NOT_FOUND, NOT_FOUND):
        client.revoke(UNKNOWN_LEASE)


def test_revoking_twice_is_refused(client: Client) -> None:
    lease = client.grant(60).ID
    client.revoke(lease)

    with refused(grpc.StatusCode.NOT_FOUND, NOT_FOUND):
        client.revoke(lease)


def test_revoked_lease_cannot_be_put_under(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.revoke(lease)

    with refused(grpc.StatusCode.NOT_FOUND, NOT_FOUND):
        client.put(prefix + b"k", b"v", lease=lease)


# ---- attach and detach


def test_put_under_a_lease_that_is_being_revoked_leaves_no_key(client: Client, prefix: bytes) -> None:
    """Whichever comes first, the key is gone once both calls have returned."""
    left: list[bytes] = []
    with ThreadPoolExecutor(8) as clients:
        for number in range(40):
            lease = client.grant(600).ID
            keys = [prefix + b"%d/%d" % (number, key) for key in range(7)]
            puts = [clients.submit(client.put, key, b"v", lease=lease) for key in keys]
            client.revoke(lease)
            for put in puts:
                if error := put.exception():
                    assert NOT_FOUND in str(error)
            left += keys_of(client.range(prefix, prefix_end(prefix)))

    assert left == []


def test_put_without_lease_detaches(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"v", lease=lease)
    client.put(prefix + b"k", b"v")

    client.revoke(lease)

    assert client.get(prefix + b"k").lease == 0


def test_put_with_another_lease_moves_the_key(client: Client, prefix: bytes) -> None:
    first, second = client.grant(60).ID, client.grant(60).ID
    client.put(prefix + b"k", b"v", lease=first)
    client.put(prefix + b"k", b"v", lease=second)

    assert len(client.time_to_live(first, keys=True).keys) == 0
    assert list(client.time_to_live(second, keys=True).keys) == [prefix + b"k"]
    client.revoke(first)
    assert client.get(prefix + b"k").lease == second
    client.revoke(second)
    assert client.get(prefix + b"k") is None


def test_reattached_key_goes_with_the_lease(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"v", lease=lease)
    client.put(prefix + b"k", b"v")
    client.put(prefix + b"k", b"v", lease=lease)

    client.revoke(lease)

    assert client.get(prefix + b"k") is None


def test_deleted_key_leaves_the_lease(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"k", b"v", lease=lease)
    client.delete(prefix + b"k")
    client.put(prefix + b"k", b"second life")

    assert len(client.time_to_live(lease, keys=True).keys) == 0
    client.revoke(lease)
    assert client.get(prefix + b"k").value == b"second life"


def test_txn_attaches_and_detaches(client: Client, prefix: bytes) -> None:
    lease = client.grant(60).ID
    client.put(prefix + b"a", b"v", lease=lease)
    client.txn(success=[txn_ops.put(prefix + b"a", b"v"), txn_ops.put(prefix + b"b", b"v", lease=lease)])

    assert list(client.time_to_live(lease, keys=True).keys) == [prefix + b"b"]
    client.revoke(lease)
    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"a"]


# ---- expiry


@BY_THE_CLOCK
def test_expiry_deletes_the_keys(client: Client, watch: WatchStream, prefix: bytes, capabilities) -> None:
    client.put(prefix + b"kept", b"v")
    # Before the lease, which may expire before the watch begins on a busy machine.
    watch.create(prefix, prefix_end(prefix), prev_kv=True, filters=[pb.WatchCreateRequest.NOPUT])
    start = time.monotonic()  # before the grant: a busy machine may delay what follows
    lease = client.grant(capabilities.min_ttl).ID
    client.txn(success=[txn_ops.put(prefix + key, b"v", lease=lease) for key in (b"a", b"b")])

    events = watch.events(2, timeout=capabilities.min_ttl + EXPIRY_SLACK)

    assert time.monotonic() - start > capabilities.min_ttl - 0.5
    assert [(event.type, event.kv.key, event.prev_kv.lease) for event in events] == [
        (DELETE, prefix + b"a", lease),
        (DELETE, prefix + b"b", lease),
    ]
    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"kept"]
    assert client.time_to_live(lease).TTL == -1
    assert lease not in client.leases()


@BY_THE_CLOCK
def test_key_recreated_after_expiry_stays(
    client: Client, watch: WatchStream, prefix: bytes, capabilities
) -> None:
    watch.create(prefix + b"k")
    lease = client.grant(capabilities.min_ttl).ID
    client.put(prefix + b"k", b"v", lease=lease)
    watch.events(2, timeout=capabilities.min_ttl + EXPIRY_SLACK)

    client.put(prefix + b"k", b"second life")

    assert client.get(prefix + b"k").version == 1
    assert watch.events(1)[0].type == PUT


@BY_THE_CLOCK
def test_expiry_of_one_lease_leaves_another(
    client: Client, watch: WatchStream, prefix: bytes, capabilities
) -> None:
    watch.create(prefix, prefix_end(prefix), filters=[pb.WatchCreateRequest.NOPUT])
    long = client.grant(60).ID
    client.put(prefix + b"long", b"v", lease=long)
    short = client.grant(capabilities.min_ttl).ID
    client.put(prefix + b"short", b"v", lease=short)

    (event,) = watch.events(1, timeout=capabilities.min_ttl + EXPIRY_SLACK)

    assert event.kv.key == prefix + b"short"
    assert client.get(prefix + b"long").lease == long
    client.revoke(long)


@BY_THE_CLOCK
def test_hundred_leases_expire_once_each(
    client: Client, watch: WatchStream, prefix: bytes, capabilities
) -> None:
    # Before the leases: on a slow machine the first of them expire while the last are still granted.
    watch.create(prefix, prefix_end(prefix), filters=[pb.WatchCreateRequest.NOPUT])
    for number in range(100):
        lease = client.grant(capabilities.min_ttl).ID
        client.put(prefix + b"%02d" % number, b"v", lease=lease)

    events = watch.events(100, timeout=capabilities.min_ttl + EXPIRY_SLACK)

    assert sorted(event.kv.key for event in events) == [prefix + b"%02d" % number for number in range(100)]
    assert {event.type for event in events} == {DELETE}


# ---- restart


@BY_THE_CLOCK
def test_lease_and_its_keys_survive_a_restart(own_server, prefix: bytes, needs) -> None:
    needs("durable")
    server = own_server()
    with Client(server.address) as client:
        lease = client.grant(600).ID
        client.put(prefix + b"k", b"v", lease=lease)
    server.stop()

    with Client(own_server().address) as client:
        assert client.time_to_live(lease).grantedTTL == 600
        assert list(client.time_to_live(lease, keys=True).keys) == [prefix + b"k"]
        assert client.get(prefix + b"k").lease == lease
        client.revoke(lease)
        assert client.get(prefix + b"k") is None


@BY_THE_CLOCK
def test_lease_expires_after_a_restart(own_server, prefix: bytes, capabilities, needs) -> None:
    needs("survives_kill")
    server = own_server()
    with Client(server.address) as client:
        lease = client.grant(capabilities.min_ttl + 1).ID
        start = client.put(prefix + b"k", b"v", lease=lease).header.revision + 1
    server.kill()

    with Client(own_server().address) as client, client.watch() as watch:
        watch.create(prefix + b"k", start_revision=start)
        (event,) = watch.events(1, timeout=capabilities.min_ttl + 1 + EXPIRY_SLACK)
        assert event.type == DELETE
