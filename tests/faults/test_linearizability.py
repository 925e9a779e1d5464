"""The linearizability checker itself, on histories whose verdict is known."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability import Operation, check, step

K = b"k"


def get(client: int, called: int, returned: int, seen: bytes | None) -> Operation:
    return Operation(client, K, "get", called, returned, seen=seen)


def put(client: int, called: int, returned: int | None, value: bytes) -> Operation:
    return Operation(client, K, "put", called, returned, value=value)


def delete(client: int, called: int, returned: int | None, seen: bytes | None) -> Operation:
    return Operation(client, K, "delete", called, returned, seen=seen)


def cas(
    client: int,
    called: int,
    returned: int | None,
    expected: bytes | None,
    value: bytes,
    succeeded: bool = True,
    seen: bytes | None = None,
) -> Operation:
    return Operation(client, K, "cas", called, returned, value, expected, seen, succeeded)


# ---- linearizable histories


def test_nothing_happened() -> None:
    assert check([]) is None


def test_read_after_write() -> None:
    assert check([put(1, 0, 1, b"a"), get(2, 2, 3, b"a")]) is None


def test_read_beside_a_write_may_see_it_or_not() -> None:
    assert check([put(1, 0, 10, b"a"), get(2, 1, 2, b"a"), get(3, 1, 2, None)]) is None


def test_overlapping_writes_may_end_in_either_order() -> None:
    assert check([put(1, 0, 10, b"a"), put(2, 0, 10, b"b"), get(3, 11, 12, b"a")]) is None
    assert check([put(1, 0, 10, b"a"), put(2, 0, 10, b"b"), get(3, 11, 12, b"b")]) is None


def test_unknown_write_may_have_happened() -> None:
    assert check([put(1, 0, None, b"a"), get(2, 5, 6, b"a")]) is None


def test_unknown_write_may_not_have_happened() -> None:
    assert check([put(1, 0, None, b"a"), get(2, 5, 6, None)]) is None


def test_unknown_write_may_happen_late() -> None:
    assert check([put(1, 0, None, b"a"), get(2, 5, 6, None), get(2, 7, 8, b"a")]) is None


def test_unknown_cas_may_have_failed() -> None:
    history = [put(1, 0, 1, b"a"), cas(2, 2, None, b"a", b"b"), put(1, 3, 4, b"c"), get(1, 5, 6, b"c")]

    assert check(history) is None


def test_failed_cas_shows_what_was_there() -> None:
    history = [put(1, 0, 1, b"a"), cas(2, 2, 3, b"x", b"b", succeeded=False, seen=b"a")]

    assert check(history) is None


def test_keys_do_not_constrain_each_other() -> None:
    other = Operation(1, b"other", "put", 0, 1, value=b"x")

    assert check([other, get(1, 2, 3, None)]) is None


def test_earlier_state_may_be_given() -> None:
    assert check([get(1, 0, 1, b"before")], initial=b"before") is None


# ---- violations


def test_stale_read_is_found() -> None:
    violation = check([put(1, 0, 1, b"a"), put(1, 2, 3, b"b"), get(2, 4, 5, b"a")])

    assert violation is not None
    assert violation.stuck == [get(2, 4, 5, b"a")]
    assert "none of these fits" in str(violation)


def test_lost_write_is_found() -> None:
    assert check([put(1, 0, 1, b"a"), get(2, 2, 3, None)])


def test_value_nobody_wrote_is_found() -> None:
    assert check([put(1, 0, 1, b"a"), get(2, 2, 3, b"b")])


def test_read_going_back_is_found() -> None:
    history = [put(1, 0, 1, b"a"), put(1, 2, 100, b"b"), get(2, 3, 4, b"b"), get(2, 5, 6, b"a")]

    assert check(history)


def test_two_readers_who_disagree_on_the_order_are_found() -> None:
    history = [
        put(1, 0, 100, b"a"),
        put(2, 0, 100, b"b"),
        get(3, 1, 2, b"a"),
        get(3, 3, 4, b"b"),
        get(4, 5, 6, b"a"),
    ]

    assert check(history)


def test_two_winners_of_one_cas_are_found() -> None:
    history = [put(1, 0, 1, b"a"), cas(1, 2, 10, b"a", b"b"), cas(2, 2, 10, b"a", b"c")]

    assert check(history)


def test_cas_that_should_have_won_is_found() -> None:
    assert check([put(1, 0, 1, b"a"), cas(2, 2, 3, b"a", b"b", succeeded=False, seen=b"a")])


def test_failed_cas_that_shows_an_old_value_is_found() -> None:
    history = [put(1, 0, 1, b"a"), put(1, 2, 3, b"b"), cas(2, 4, 5, b"x", b"y", succeeded=False, seen=b"a")]

    assert check(history)


def test_key_risen_from_a_delete_is_found() -> None:
    assert check([put(1, 0, 1, b"a"), delete(1, 2, 3, b"a"), get(2, 4, 5, b"a")])


def test_key_deleted_twice_is_found() -> None:
    assert check([put(1, 0, 1, b"a"), delete(1, 2, 10, b"a"), delete(2, 2, 10, b"a")])


def test_unknown_write_that_comes_and_goes_is_found() -> None:
    history = [put(1, 0, None, b"a"), get(2, 5, 6, b"a"), get(2, 7, 8, None)]

    assert check(history)


def test_unknown_write_cannot_come_before_its_call() -> None:
    assert check([get(2, 0, 1, b"a"), put(1, 5, None, b"a")])


# ---- against the definition


def explained_by_some_order(history: list[Operation]) -> bool:
    """Linearizability by its definition: tries every order of every subset of the unknown operations."""
    known = [operation for operation in history if operation.returned is not None]
    unknown = [operation for operation in history if operation.returned is None]
    for choice in range(2 ** len(unknown)):
        taken = known + [operation for index, operation in enumerate(unknown) if choice >> index & 1]
        if any(explains(order) for order in permutations(taken)):
            return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    state: bytes | None = None
    for index, operation in enumerate(order):
        if any(
            later.returned is not None and later.returned < operation.called for later in order[index + 1 :]
        ):
            return False
        fits, state = step(state, operation)
        if not fits:
            return False
    return True


VALUES = [None, b"a", b"b"]


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    history = []
    for client in range(draw(st.integers(1, 6))):
        called = draw(st.integers(0, 8))
        kind = draw(st.sampled_from(["get", "put", "cas", "delete"]))
        unknown = kind != "get" and draw(st.integers(0, 3)) == 0
        history.append(
            Operation(
                client,
                K,
                kind,
                called,
                None if unknown else called + draw(st.integers(1, 5)),
                value=draw(st.sampled_from(VALUES[1:])),
                expected=draw(st.sampled_from(VALUES)),
                seen=draw(st.sampled_from(VALUES)),
                succeeded=draw(st.booleans()),
            )
        )
    return history


@settings(max_examples=400, deadline=None)
@given(histories())
def test_verdict_is_the_definitions(history: list[Operation]) -> None:
    assert (check(history) is None) == explained_by_some_order(history)


def test_long_history_of_many_clients_is_checked_in_time() -> None:
    history = []
    state: bytes | None = None
    for number in range(4000):
        value = b"%d" % number
        called, returned = number * 10, number * 10 + 75  # eight overlap at any time
        if number % 3:
            history.append(get(number % 8, called, returned, state))
        else:
            history.append(put(number % 8, called, returned, value))
            state = value

    assert check(history) is None
