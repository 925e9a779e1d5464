"""Contents of a source: keys of 1 B to 1.4 MB, leases, history, deletions, written as Kubernetes writes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.client import Client
from tests.txn_ops import delete, get, modified, put

LARGEST = 1_400_000  # bytes
LEASE = 7200  # seconds of the shortest lease, and its id: Go kine's leases have their TTL as id
_NOISE = random.Random(14).randbytes(LARGEST + 4096)
_AT_ONCE = 12
_BATCH = 60  # writes in a Txn
_BATCH_BYTES = 900_000


@dataclass(frozen=True, slots=True)
class Amount:
    keys: int = 5_000
    leases: int = 500
    large: int = 3  # of the largest values


def key(number: int) -> bytes:
    return b"/registry/%s/ns%d/%06d" % ((b"pods", b"secrets", b"events")[number % 3], number % 17, number)


def value(number: int, change: int, amount: Amount) -> bytes:
    if number < amount.large:
        size = LARGEST
    elif number % 500 == 7:
        size = 10_000 + number % 90_000
    else:
        size = 1 + (number * 37 + change) % 900
    start = (number + change * 7) % 4096
    return _NOISE[start : start + size]


def lease_of(number: int, amount: Amount) -> int:
    return LEASE + number // 5 % amount.leases if number % 5 == 0 else 0


def fill(client: Client, amount: Amount, *, alone: bool) -> None:
    """Fills a source. `alone`: each write is its own Txn, which is all that Go kine accepts."""
    numbers = range(amount.keys)
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def each(work: Callable[[Any], object], items: Iterable[object]) -> None:
            for _ in pool.map(work, items):
                pass

        def create(number: int) -> None:
            write(number, 0, 0)

        def write(number: int, change: int, revision: int) -> None:
            name = key(number)
            operation = put(name, value(number, change, amount), lease=lease_of(number, amount))
            answer = client.txn([modified(name, "=", revision)], [operation], [get(name)] if revision else [])
            assert answer.succeeded, (name, revision, answer)

        def write_block(block: tuple[int, list[int]]) -> None:
            change, inside = block
            client.txn(
                [],
                [
                    put(key(number), value(number, change, amount), lease=lease_of(number, amount))
                    for number in inside
                ],
            )

        def mod(number: int) -> int:
            found = client.get(key(number), keys_only=not alone)
            assert found is not None
            return int(found.mod_revision)

        def change(number: int) -> None:
            write(number, 1 + number % 3, mod(number))

        def remove(number: int) -> None:
            name = key(number)
            answer = client.txn([modified(name, "=", mod(number))], [delete(name)], [get(name)])
            assert answer.succeeded

        each(lambda lease: client.grant(lease, lease_id=lease), range(LEASE, LEASE + amount.leases))
        if alone:
            each(create, numbers)
        else:
            each(write_block, ((0, block) for block in _blocks(numbers, amount)))
        middle = client.revision()
        # Some not in the order of the keys, so that revisions and keys do not correlate.
        shuffled = random.Random(15).sample(numbers, len(numbers))
        each(change, [number for number in shuffled if number % 11 == 0])
        each(remove, [number for number in shuffled if number % 23 == 3])
        each(create, [number for number in shuffled if number % 46 == 3])  # half of those come again
        client.compact(middle)
        each(
            change,
            [number for number in shuffled if number % 55 == 0 and (number % 23 != 3 or number % 46 == 3)],
        )


def _blocks(numbers: Iterable[int], amount: Amount) -> Iterable[list[int]]:
    block: list[int] = []
    size = 0
    for number in numbers:
        length = len(value(number, 0, amount))
        if block and (len(block) == _BATCH or size + length > _BATCH_BYTES):
            yield block
            block, size = [], 0
        block.append(number)
        size += length
    if block:
        yield block
