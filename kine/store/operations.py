"""Requests and results of the store, as plain data; its errors are in `errors`.

Results hold key-values as frames (see `value_cache`); a result's revision goes into the response header. A
range is `key, end` as in `index`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class SortOrder(IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class CompareTarget(IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class CompareResult(IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


@dataclass(slots=True)
class Range:
    key: bytes
    end: bytes | None = None
    limit: int = 0
    revision: int = 0
    order: int = SortOrder.NONE
    target: int = SortTarget.KEY
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False
    min_mod: int = 0
    max_mod: int = 0
    min_create: int = 0
    max_create: int = 0
    client: object = field(default=None, compare=False)  # takes turns with others: see `kine.fair_queue`


@dataclass(slots=True)
class Put:
    key: bytes
    value: bytes
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


@dataclass(slots=True)
class Delete:
    key: bytes
    end: bytes | None = None
    prev_kv: bool = False


@dataclass(slots=True)
class Compare:
    key: bytes
    end: bytes | None
    target: int
    result: int
    operand: int | bytes


@dataclass(slots=True)
class Txn:
    compares: list[Compare]
    success: list[Op]
    failure: list[Op]
    alone: bool = False  # a single Put or DeleteRange request, not sent as a transaction
    client: object = field(default=None, compare=False)  # takes turns with others: see `kine.fair_queue`


@dataclass(slots=True)
class Swap:
    """Compare-and-swap: changes one key, if its mod revision is the expected one."""

    key: bytes
    mod: int  # the expected mod revision; 0: the key does not exist
    value: bytes | None  # None: delete the key
    lease: int
    tell: bool  # on a mismatch, return the key's current value
    client: object = field(default=None, compare=False)  # takes turns with others: see `kine.fair_queue`


Op: TypeAlias = Range | Put | Delete | Txn


@dataclass(slots=True)
class RangeResult:
    revision: int
    frames: list[bytes]
    more: bool
    count: int
    size: int = 0  # bytes of all frames, if `frames` holds chunks of several frames each; else 0


@dataclass(slots=True)
class PutResult:
    revision: int
    prev: bytes | None  # frame


@dataclass(slots=True)
class DeleteResult:
    revision: int
    deleted: int
    prev: list[bytes]  # frames


@dataclass(slots=True)
class TxnResult:
    revision: int
    succeeded: bool
    results: list[Result]


LARGEST_ANSWER = 2**31 - 1  # bytes: the largest message that gRPC peers accept

Result: TypeAlias = RangeResult | PutResult | DeleteResult | TxnResult
