"""Linearizability checker: is there an order of the operations that explains every response?

The order must also keep real time. The search is that of Wing and Gong ("Testing and Verifying Concurrent
Objects", 1993) with Lowe's memory of configurations already met ("Testing for linearizability", 2017), as
porcupine does it, one key at a time: operations on different keys do not constrain each other (Herlihy and
Wing's locality).

An operation whose outcome is unknown may have taken effect at any time after its call, or never.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Value = bytes | None  # None: the key is absent


class Operation(NamedTuple):
    """What one client did to one key, and the response. Times are of one clock."""

    client: int
    key: bytes
    kind: Literal["get", "put", "cas", "delete"]
    called: int
    returned: int | None  # None: the outcome is unknown
    value: Value = None  # put and cas: what is written
    expected: Value = None  # cas: what must be there, None for absence
    seen: Value = None  # get, a failed cas and a delete: what was there
    succeeded: bool = True  # cas only


class Violation(NamedTuple):
    """No order explains these operations on one key."""

    key: bytes
    explained: list[Operation]  # the longest order found
    stuck: list[Operation]  # the candidates for the next place, of which none fits

    def __str__(self) -> str:
        ordered = "\n".join(f"  {operation}" for operation in self.explained[-10:])
        next_ones = "\n".join(f"  {operation}" for operation in self.stuck)
        return f"{self.key!r} is not linearizable; after\n{ordered}\nnone of these fits:\n{next_ones}"


def step(state: Value, operation: Operation) -> tuple[bool, Value]:
    """Whether the operation may have run in this state, and the state after it."""
    known = operation.returned is not None
    match operation.kind:
        case "get":
            return operation.seen == state, state
        case "put":
            return True, operation.value
        case "delete":
            return not known or operation.seen == state, None
        case "cas":
            succeeds = operation.expected == state
            if known and succeeds != operation.succeeded:
                return False, state
            if known and not succeeds and operation.seen != state:
                return False, state
            return True, operation.value if succeeds else state


def check(history: Sequence[Operation], initial: Value = None) -> Violation | None:
    """The first key whose operations no order explains; None if the history is linearizable.

    A get of unknown outcome constrains nothing and should be left out.
    """
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    for key in sorted(by_key):
        if violation := _check_key(key, by_key[key], initial):
            return violation
    return None


@dataclass(slots=True, eq=False)
class _Event:
    """A call or a return, in a list ordered by time."""

    number: int  # of the operation; -1 at the list's ends
    is_return: bool = False
    match: _Event | None = None  # the call's return, if there is one
    before: _Event = field(init=False)
    after: _Event = field(init=False)


def _timeline(operations: list[Operation]) -> _Event:
    """The head of the list of calls and returns. At equal times, calls come first: they may overlap."""
    moments: list[tuple[int, bool, _Event]] = []
    for number, operation in enumerate(operations):
        call = _Event(number)
        moments.append((operation.called, False, call))
        if operation.returned is not None:
            call.match = _Event(number, is_return=True)
            moments.append((operation.returned, True, call.match))
    moments.sort(key=lambda moment: moment[:2])
    head = _Event(-1)
    last = head
    for event in [*(moment[2] for moment in moments), _Event(-1)]:
        last.after, event.before = event, last
        last = event
    return head


def _lift(call: _Event) -> None:
    for event in (call, call.match):
        if event is not None:
            event.before.after, event.after.before = event.after, event.before


def _put_back(call: _Event) -> None:
    for event in (call.match, call):
        if event is not None:
            event.before.after = event.after.before = event


def _check_key(key: bytes, operations: list[Operation], initial: Value) -> Violation | None:
    head = _timeline(operations)
    state, done = initial, 0  # `done` has the bit of each operation in the order so far
    returns = sum(operation.returned is not None for operation in operations)
    order: list[tuple[_Event, Value]] = []  # calls taken, each with the state before it
    met: set[tuple[int, Value]] = set()
    longest: list[Operation] = []
    stuck: list[Operation] = []
    event = head.after
    while returns:
        if event.is_return:
            # No call before this return can come next: backtrack over the last one taken.
            if len(order) >= len(longest):
                longest = [operations[call.number] for call, _ in order]
                stuck = _candidates(head, operations)
            if not order:
                return Violation(key, longest, stuck)
            call, state = order.pop()
            done ^= 1 << call.number
            returns += call.match is not None
            _put_back(call)
            event = call.after
            continue
        fits, after = step(state, operations[event.number])
        configuration = (done | 1 << event.number, after)
        if fits and configuration not in met:
            met.add(configuration)
            order.append((event, state))
            done, state = configuration
            returns -= event.match is not None
            _lift(event)
            event = head.after
        else:
            event = event.after
    return None


def _candidates(head: _Event, operations: list[Operation]) -> list[Operation]:
    """The operations called before the first return that is not explained."""
    found = []
    event = head.after
    while not event.is_return:
        found.append(operations[event.number])
        event = event.after
    return found
