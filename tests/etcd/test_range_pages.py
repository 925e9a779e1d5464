"""Range by page: limit, count, more, and continuing where a page ended."""

from __future__ import annotations

import pytest

from kine.proto import rpc_pb2 as pb
from tests.client import Client, keys_of, prefix_end

Order = pb.RangeRequest
COMPACTED = "etcdserver: mvcc: required revision has been compacted"
FUTURE = "etcdserver: mvcc: required revision is a future revision"


def test_limit_cuts_and_says_more(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.range(prefix, prefix_end(prefix), limit=2)

    assert keys_of(answer) == five[:2]
    assert answer.more


def test_count_is_of_the_whole_range_not_of_the_page(
    client: Client, prefix: bytes, five: list[bytes]
) -> None:
    assert client.range(prefix, prefix_end(prefix), limit=2).count == 5


@pytest.mark.parametrize("limit", [5, 6, 1000, 2**31, 2**63 - 1])
def test_limit_that_fits_says_no_more(client: Client, prefix: bytes, five: list[bytes], limit: int) -> None:
    answer = client.range(prefix, prefix_end(prefix), limit=limit)

    assert keys_of(answer) == five
    assert not answer.more


def test_page_continues_after_the_last_key(client: Client, prefix: bytes, five: list[bytes]) -> None:
    first = client.range(prefix, prefix_end(prefix), limit=2)

    second = client.range(
        first.kvs[-1].key + b"\0", prefix_end(prefix), limit=2, revision=first.header.revision
    )

    assert keys_of(second) == five[2:4]
    assert (second.more, second.count) == (True, 3)


def test_long_list_between_writes_is_as_it_was_written(client: Client, prefix: bytes) -> None:
    written = {prefix + b"%03d" % number: b"%03d" % number * 700 for number in range(200)}
    for key, value in written.items():
        client.put(key, value)
    for turn in range(5):
        changed = prefix + b"%03d" % (turn * 37)
        for _ in range(2):  # the second is answered from the cache that the first has filled
            answer = client.range(prefix, prefix_end(prefix))
            page = client.range(prefix, prefix_end(prefix), limit=70)
            assert {kv.key: kv.value for kv in answer.kvs} == written
            assert (keys_of(answer), answer.count) == (sorted(written), len(written))
            assert [kv.value for kv in page.kvs] == [written[key] for key in sorted(written)[:70]]
            assert (page.count, page.more) == (len(written), True)
        written[changed] = b"changed %d" % turn * 100
        newest = client.put(changed, written[changed]).header.revision
        client.delete(sorted(written)[turn])
        del written[sorted(written)[turn]]
        written[changed + b"x"] = b"more"
        client.put(changed + b"x", b"more")
        past = client.range(prefix, prefix_end(prefix), revision=newest - 1)
        assert (past.count, past.kvs) == (answer.count, answer.kvs)


def test_continuation_does_not_skip_the_key_that_extends_the_last(client: Client, prefix: bytes) -> None:
    for key in (b"a", b"a-", b"a/", b"a0", b"b"):
        client.put(prefix + key, b"v")

    answer = client.range(prefix + b"a\0", prefix_end(prefix))

    assert keys_of(answer) == [prefix + b"a-", prefix + b"a/", prefix + b"a0", prefix + b"b"]


def test_pages_at_the_first_pages_revision_see_no_later_write(
    client: Client, prefix: bytes, five: list[bytes]
) -> None:
    first = client.range(prefix, prefix_end(prefix), limit=2)
    client.delete(five[2])
    client.put(five[3], b"changed")
    client.put(prefix + b"dd", b"new")

    rest = client.range(
        first.kvs[-1].key + b"\0", prefix_end(prefix), limit=500, revision=first.header.revision
    )

    assert keys_of(rest) == five[2:]
    assert rest.kvs[1].value == b"value 6"


def test_last_page_says_no_more(client: Client, prefix: bytes, five: list[bytes]) -> None:
    answer = client.range(five[3] + b"\0", prefix_end(prefix), limit=2)

    assert keys_of(answer) == five[4:]
    assert (answer.more, answer.count) == (False, 1)


def test_thousand_keys_by_page_are_complete(client: Client, prefix: bytes) -> None:
    written = [prefix + b"%04d" % number for number in range(1000)]
    for key in written:
        client.put(key, b"v")

    read, start, more, revision = [], prefix, True, 0
    while more:
        page = client.range(start, prefix_end(prefix), limit=130, revision=revision)
        revision = revision or page.header.revision
        read += keys_of(page)
        start, more = page.kvs[-1].key + b"\0", page.more

    assert read == written
