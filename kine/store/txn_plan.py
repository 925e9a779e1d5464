"""Transaction planning: a transaction is decided on the index, before anything is written.

`plan` takes the decisions of etcd's applier: it evaluates the compares, follows the branches, and lists
the rows to append. It changes nothing and waits for nothing. If it lacks a value, it raises
`MissingValuesError`; the caller fetches the value and plans again. Responses are made later, when the rows
have ids: a response is then a read of the index at a revision between those ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kine.drivers.base import NewRow
from kine.store.errors import (
    CompactedError,
    DuplicateKeyError,
    FutureRevisionError,
    KeyNotFoundError,
    LeaseNotFoundError,
    ReservedKeyError,
    StoreError,
    TooMuchWorkError,
)
from kine.store.index import Entry, Index, in_range
from kine.store.operations import (
    Compare,
    CompareResult,
    CompareTarget,
    Delete,
    Op,
    Put,
    Range,
    Txn,
)
from kine.store.reserved_key_translation import COMPACT_REV_KEY, COMPACT_REV_ROW, name_of, stored

_LOOKED_AT = 250_000  # keys in the ranges of one transaction: some 100 ms
_VALUE = 3  # keys that one counts for if its value is compared
_LIKE_A_KEY = 1024  # bytes of compared values that count as one key


class MissingValuesError(Exception):
    def __init__(self, entries: list[Entry]) -> None:
        super().__init__("values are not at hand")
        self.entries = entries


class TxnStep(NamedTuple):
    """One operation of the branch taken, and how many rows the transaction has before and after it."""

    op: Op
    before: int
    after: int
    replaced: list[Entry]  # the entries that a put or delete replaces
    branch: TxnBranch | None  # of a nested transaction


@dataclass(slots=True)
class TxnBranch:
    succeeded: bool
    steps: list[TxnStep]


@dataclass(slots=True)
class DecidedTxn:
    rows: list[NewRow] = field(default_factory=list)
    guarded: bool = False
    keys: set[bytes] = field(default_factory=set)  # compared or changed
    ranges: list[tuple[bytes, bytes]] = field(default_factory=list)
    branch: TxnBranch = field(default_factory=lambda: TxnBranch(False, []))
    looked_at: int = 0  # keys in its ranges, deleted ones too
    several: bool = False  # several ranges, or one compared by value; any other single range has no limit
    values: dict[int, bytes] = field(default_factory=dict)  # compared values, by revision

    def charge(self, ranges: Sequence[tuple[bytes, bytes]], weight: int, index: Index) -> None:
        """Counts ranges before they are scanned, each key as `weight` keys. Raises TooMuchWorkError."""
        for key, end in ranges:
            self.several = self.several or weight > 1 or self.looked_at > 0
            self.looked_at += weight * index.width(key, end)
        if self.several and self.looked_at > _LOOKED_AT:
            raise TooMuchWorkError(_LOOKED_AT)

    def look(self, key: bytes, end: bytes, index: Index) -> list[Entry]:
        """Returns the entries of a range that a decision depends on. It must have been charged."""
        self.ranges.append((key, end))
        return index.scan(key, end, index.revision)

    def value(self, entry: Entry, value_of: ValueOf) -> bytes | None:
        """Returns the entry's value, copied once however often it is compared. Raises TooMuchWorkError."""
        found = self.values.get(entry.mod)
        if found is None:
            found = value_of(entry)
            if found is not None:
                if self.looked_at > _LOOKED_AT:
                    raise TooMuchWorkError(_LOOKED_AT)
                self.looked_at += len(found) // _LIKE_A_KEY
                self.values[entry.mod] = found
        return found


ValueOf = Callable[[Entry], bytes | None]
TtlOf = Callable[[int], int]  # a lease's TTL in seconds; raises LeaseNotFoundError


def plan(txn: Txn, index: Index, value_of: ValueOf, ttl_of: TtlOf) -> DecidedTxn:
    """Decides a transaction. Raises StoreError where etcd refuses it; MissingValuesError."""
    made = DecidedTxn()
    if txn.alone and isinstance(put := txn.success[0], Put) and put.lease:
        ttl_of(put.lease)  # etcd checks the key first in a transaction, but the lease first in a Put request
    path = _decide(txn, index, value_of, made)
    run = _Run(index, value_of, ttl_of, made)
    made.branch = run.branch(txn, path)
    if run.refused is not None:
        raise run.refused
    made.values.clear()
    if len(made.rows) > 1:
        made.rows[:-1] = [row._replace(more=True) for row in made.rows[:-1]]
    changed = {row.name for row in made.rows}
    made.guarded = bool(made.ranges) or any(name_of(key) not in changed for key in made.keys)
    return made


# ---- compares


@dataclass(slots=True)
class _Path:
    succeeded: bool
    nested: list[_Path]


def _decide(txn: Txn, index: Index, value_of: ValueOf, made: DecidedTxn) -> _Path:
    """All compares, nested ones too, see the state before the transaction, as in etcd."""
    ranges, of_values = list[tuple[bytes, bytes]](), list[tuple[bytes, bytes]]()
    for compare in txn.compares:
        if compare.end is not None:
            by_value = compare.target == CompareTarget.VALUE
            (of_values if by_value else ranges).append((compare.key, compare.end))
    # Before the first scan: too much work is refused at once, whatever the compares would yield.
    made.charge(ranges, 1, index)
    made.charge(of_values, _VALUE, index)
    succeeded = all(_holds(compare, index, value_of, made) for compare in txn.compares)
    ops = txn.success if succeeded else txn.failure
    return _Path(succeeded, [_decide(op, index, value_of, made) for op in ops if isinstance(op, Txn)])


def _holds(compare: Compare, index: Index, value_of: ValueOf, made: DecidedTxn) -> bool:
    if compare.end is None:
        made.keys.add(compare.key)
        entry = index.live(compare.key)
        entries = [entry] if entry is not None else []
    else:
        entries = made.look(compare.key, compare.end, index)
    target = compare.target
    if target == CompareTarget.VALUE:
        values = [made.value(entry, value_of) for entry in entries]
        missing = [entry for entry, value in zip(entries, values, strict=True) if value is None]
        if missing:
            raise MissingValuesError(missing)
        # No key is not the same as an empty value: such a compare never holds.
        operands: list[int | bytes] = [value for value in values if value is not None]
        if not operands:
            return False
    elif not entries:
        operands = [0]
    elif target == CompareTarget.MOD:
        operands = [entry.mod for entry in entries]
    elif target == CompareTarget.VERSION:
        operands = [entry.version for entry in entries]
    elif target == CompareTarget.CREATE:
        operands = [entry.create for entry in entries]
    else:
        operands = [entry.lease for entry in entries]
    wanted = compare.operand
    result = compare.result
    if result == CompareResult.EQUAL:
        return all(operand == wanted for operand in operands)
    if result == CompareResult.NOT_EQUAL:
        return all(operand != wanted for operand in operands)
    if result == CompareResult.GREATER:
        return all(operand > wanted for operand in operands)  # type: ignore[operator]
    return all(operand < wanted for operand in operands)  # type: ignore[operator]


# ---- operations


class _Run:
    __slots__ = ("index", "made", "put", "refused", "removed", "ttl_of", "value_of")

    def __init__(self, index: Index, value_of: ValueOf, ttl_of: TtlOf, made: DecidedTxn) -> None:
        self.index = index
        self.value_of = value_of
        self.ttl_of = ttl_of
        self.made = made
        self.put: set[bytes] = set()
        self.removed: set[bytes] = set()
        self.refused: StoreError | None = None  # a range's error, raised last: etcd checks all puts first

    def branch(self, txn: Txn, path: _Path) -> TxnBranch:
        rows = self.made.rows
        steps = []
        nested = iter(path.nested)
        for op in txn.success if path.succeeded else txn.failure:
            before = len(rows)
            branch = None
            replaced: list[Entry] = []
            if isinstance(op, Put):
                replaced = self._put(op)
            elif isinstance(op, Range):
                try:
                    check_revision(op, self.index)
                except StoreError as error:
                    self.refused = self.refused or error
            elif isinstance(op, Delete):
                replaced = self._delete(op)
            else:
                branch = self.branch(op, next(nested))
            steps.append(TxnStep(op, before, len(rows), replaced, branch))
        return TxnBranch(path.succeeded, steps)

    def _put(self, op: Put) -> list[Entry]:
        key = op.key
        if key == COMPACT_REV_ROW:
            raise ReservedKeyError
        if key in self.put or key in self.removed:
            raise DuplicateKeyError
        self.put.add(key)
        self.made.keys.add(key)
        newest = self.index.newest.get(key)
        current = newest if newest is not None and newest.version else None
        value: bytes | None = op.value
        lease = op.lease
        if op.ignore_value or op.ignore_lease:
            if current is None:
                raise KeyNotFoundError
            if op.ignore_value:
                value = self.value_of(current)
                if value is None:
                    raise MissingValuesError([current])
            if op.ignore_lease:
                lease = current.lease
        ttl = 0
        if lease:
            try:
                ttl = self.ttl_of(lease)
            except LeaseNotFoundError:
                if not op.ignore_lease:
                    raise
                ttl, lease = lease, 0  # Go kine wrote that row: its lease is only a TTL
        version = 1 if current is None else current.version + 1
        if key == COMPACT_REV_KEY:
            value = stored(key, version, value or b"")
        self.made.rows.append(
            NewRow(
                name_of(key),
                current is None,
                False,
                0 if current is None else current.create,
                0 if newest is None else newest.mod,
                ttl,
                value,
                lease,
                version,
            )
        )
        return [] if current is None else [current]

    def _delete(self, op: Delete) -> list[Entry]:
        index = self.index
        if op.end is None:
            self.made.keys.add(op.key)
            entry = index.live(op.key)
            entries = [entry] if entry is not None else []
            if op.key in self.put:
                raise DuplicateKeyError
        else:
            self.made.charge([(op.key, op.end)], 1, index)
            entries = self.made.look(op.key, op.end, index)
            if any(in_range(key, op.key, op.end) for key in self.put):
                raise DuplicateKeyError
        replaced = [entry for entry in entries if entry.key not in self.removed]
        for entry in replaced:
            self.removed.add(entry.key)
            self.made.keys.add(entry.key)
            self.made.rows.append(NewRow(name_of(entry.key), False, True, 0, entry.mod, 0, None, 0))
        return replaced


def check_revision(op: Range, index: Index) -> None:
    if op.revision > index.revision:
        raise FutureRevisionError
    if 0 < op.revision < index.compact_revision:
        raise CompactedError(index.compact_revision)
