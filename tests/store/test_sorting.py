"""Sorting in slices gives the same order as sorting at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kine.store import sliced_sort
from kine.store.sliced_sort import sorted_in_turns

Pairs = list[tuple[bytes, int]]


@pytest.fixture(autouse=True, scope="module")
def _few_at_once() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliced_sort, "AT_ONCE", 5)
        patch.setattr(sliced_sort, "_LIKE_AN_ITEM", 2)
        yield


@given(st.lists(st.tuples(st.binary(max_size=6), st.integers())), st.booleans())
async def test_as_sorted_in_turns_of_a_few(pairs: Pairs, reverse: bool) -> None:
    turns = 0

    async def next_turn() -> None:
        nonlocal turns
        turns += 1

    found = await sorted_in_turns(
        pairs, lambda pair: pair[0], lambda pair: len(pair[0]), next_turn, reverse=reverse
    )

    assert found == sorted(pairs, key=lambda pair: pair[0], reverse=reverse)
    assert turns >= len(pairs) // 5
