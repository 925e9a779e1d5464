"""Keys are bytes: each is stored exactly and apart from all others, or refused with the reason.

`test_every_rpc` shows, by a restart, that they are unchanged once read back from the database.
"""

from __future__ import annotations

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import txn_ops
from tests.client import DELETE, PUT, Client, WatchStream, keys_of, prefix_end
from tests.hostile.hostile_keys import FAMILIES, LENGTHS, ROOTLESS, every

# The database keeps keys apart; the other backends are tested in `make test-engines`.
EACH_DATABASE = pytest.mark.quick_on("sqlite-http2", "postgres", "mysql", "nats")


def held(client: Client, keys: list[bytes]) -> list[bytes]:
    """Puts each key with its own bytes as value; returns those stored; others are refused for a reason."""
    found = []
    for key in keys:
        refusal = None
        try:
            client.put(key, b"of " + key[:200])
        except grpc.RpcError as error:
            refusal = error
        if refusal is None:
            found.append(key)
            continue
        assert refusal.code() == grpc.StatusCode.INVALID_ARGUMENT, (key[:200], refusal.details())
        assert refusal.details().startswith(("etcdserver: this key ", "etcdserver: a key of ")), key[:200]
        assert client.range(key).count == 0
    return found


def check(client: Client, prefix: bytes, keys: list[bytes]) -> None:
    """Checks that the keys below the prefix are these, by every kind of read."""
    end = prefix_end(prefix)
    in_order = sorted(keys)
    answer = client.range(prefix, end)
    assert [(kv.key, kv.value) for kv in answer.kvs] == [(key, b"of " + key[:200]) for key in in_order]
    descending = client.range(prefix, end, sort_order=2)
    assert keys_of(descending) == in_order[::-1]
    for number, key in enumerate(in_order):
        got = client.get(key)
        assert got is not None
        assert (got.key, got.value, got.version) == (key, b"of " + key[:200], 1)
        page = client.range(key, end, limit=2)
        assert keys_of(page) == in_order[number : number + 2]
        assert page.count == len(in_order) - number
        assert client.range(key + b"\0", end, count_only=True).count == len(in_order) - number - 1


@EACH_DATABASE
@pytest.mark.parametrize("family", FAMILIES)
def test_keys_alike_are_kept_apart(client: Client, prefix: bytes, family: str) -> None:
    keys = held(client, [prefix + key for key in FAMILIES[family]])

    check(client, prefix, keys)
    while keys:
        gone = keys.pop(len(keys) // 2)
        assert client.delete(gone).deleted == 1
        assert keys_of(client.range(prefix, prefix_end(prefix))) == sorted(keys)


def test_which_keys_are_held(client: Client, prefix: bytes, capabilities) -> None:
    # Each below its own prefix: some databases store only the first of similar ones.
    keys = [
        prefix + b"%d/" % number + key.removeprefix(prefix)
        for number, key in enumerate(every(prefix))
        if len(key) < min(LENGTHS)
    ]

    assert held(client, keys) == [key for key in keys if capabilities.holds_key(key)]


def test_keys_of_every_length_are_held_or_refused(client: Client, prefix: bytes, capabilities) -> None:
    asked = [prefix.ljust(length, b"y") for length in (*LENGTHS, 3_000, 10_000)]
    keys = held(client, asked)

    check(client, prefix, keys)
    assert keys == (asked if capabilities.holds_long_keys else asked[: len(keys)])
    assert len(keys) >= LENGTHS.index(600) + 1


def test_key_as_large_as_a_request_is_held_or_refused_at_once(
    client: Client, prefix: bytes, capabilities
) -> None:
    huge = [prefix + b"z" * 1_500_000, prefix + b"/".join([b"z"] * 700_000)]
    for key in huge:
        keys = held(client, [key])

        assert keys == [key] or not capabilities.holds_long_keys
        check(client, prefix, keys)
        assert client.delete(prefix, prefix_end(prefix)).deleted == len(keys)
    client.put(prefix + b"small", b"v")
    assert keys_of(client.range(prefix, prefix_end(prefix))) == [prefix + b"small"]


def test_keys_outside_every_prefix(client: Client, server) -> None:
    before = set(keys_of(client.range(b"\0", b"\0")))
    assert not before & set(ROOTLESS)
    keys = held(client, ROOTLESS)

    assert keys_of(client.range(b"\0", b"\0")) == sorted({*before, *keys})
    for key in keys:
        assert client.delete(key).deleted == 1
    assert set(keys_of(client.range(b"\0", b"\0"))) == before


def test_keys_alike_to_the_servers_own_leave_those_alone(client: Client, capabilities) -> None:
    own = (b"compact_rev_key", b"compact_rev_key_apiserver", b"/registry/health", b"gap-1")
    first = client.put(b"/registry/first").header.revision
    client.compact(first)

    kept = held(client, [name + more for name in own for more in (b" ", b"  ", b"\0", b"\xff", b".")])
    kept += held(client, [name.upper() for name in own])

    for _ in range(2):
        client.compact(client.put(b"/registry/first").header.revision, physical=True)
    assert [client.range(key).count for key in kept] == [1] * len(kept)
    assert client.range(b"/registry/health").count == capabilities.has_health_key
    for key in kept:
        client.delete(key)


def test_keys_that_cannot_be_held_can_be_asked_about(client: Client, prefix: bytes) -> None:
    kept = prefix + b"m"
    client.put(kept, b"v")
    for odd in (b"\xff\xfe", b"a\0b", "\u00e9".encode(), b"'", b"x" * 5_000):
        key = prefix + odd
        assert client.range(key).count == 0
        assert client.delete(key).deleted == 0
        assert client.txn([txn_ops.modified(key, "=", 0)], [txn_ops.get(kept)]).succeeded
        assert not client.txn([txn_ops.value(key, "=", b"")], [], [txn_ops.delete(key)]).succeeded
        below = keys_of(client.range(prefix, key))
        assert below == ([kept] if kept < key else [])
        assert keys_of(client.range(key, prefix_end(prefix))) == ([kept] if key < kept else [])


def test_events_tell_the_key_as_it_was_put(client: Client, watch: WatchStream, prefix: bytes) -> None:
    watch.create(prefix, prefix_end(prefix))
    keys = held(client, [key for key in every(prefix) if len(key) < min(LENGTHS)])
    client.delete(keys[0])

    events = watch.events(len(keys) + 1)

    assert [(event.type, event.kv.key) for event in events] == [
        *((PUT, key) for key in keys),
        (DELETE, keys[0]),
    ]


def test_refused_key_takes_nothing_of_its_transaction_along(
    client: Client, prefix: bytes, capabilities
) -> None:
    odd = prefix + b"a\0\xff"
    if capabilities.holds_key(odd):
        pytest.skip("every key can be held")

    with pytest.raises(grpc.RpcError) as refusal:
        client.txn([], [txn_ops.put(prefix + b"good"), txn_ops.put(odd)])

    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert client.range(prefix, prefix_end(prefix)).count == 0


def wtf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@EACH_DATABASE
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.sets(st.binary(max_size=6) | st.text(max_size=4).map(wtf8), max_size=8))
def test_any_keys_are_in_the_order_of_their_bytes(client: Client, prefix: bytes, keys: set[bytes]) -> None:
    found = held(client, [prefix + key for key in keys])

    check(client, prefix, found)
    assert client.delete(prefix, prefix_end(prefix)).deleted == len(found)


# ---- values


VALUES = [
    b"",
    b"\0",
    bytes(range(256)),
    b"\xff" * 100,
    b"'; DROP TABLE kine; --",
    b"\\",
    b"\\x41",
    b"3|4",
    b"%s",
]


@pytest.fixture(params=[0, 65_535, 65_536, 1_048_576, 1_572_000], ids=lambda size: f"{size} bytes")
def large(request: pytest.FixtureRequest) -> bytes:
    return bytes(range(256)) * (request.param // 256) + b"e" * (request.param % 256)


def test_values_are_kept_as_they_are(client: Client, prefix: bytes) -> None:
    for number, value in enumerate(VALUES):
        client.put(prefix + b"%d" % number, value)
        client.put(prefix + b"changed", value)

    assert [kv.value for kv in client.range(prefix, prefix + b":").kvs] == VALUES
    assert client.get(prefix + b"changed").value == VALUES[-1]  # type: ignore[union-attr]
    assert client.txn([txn_ops.value(prefix + b"2", "=", bytes(range(256)))]).succeeded


def test_large_value_is_kept(client: Client, prefix: bytes, large: bytes) -> None:
    client.put(prefix, b"small")
    client.put(prefix, large)

    assert client.get(prefix).value == large  # type: ignore[union-attr]
    assert client.put(prefix, b"small again", prev_kv=True).prev_kv.value == large
