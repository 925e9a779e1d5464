"""Fair scheduling among clients: in a queue, in turns of the event loop, and for limited slots."""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from kine.fair_queue import FairQueue, FairSemaphore, FairTurns

CLIENTS = st.sampled_from("abc")


@given(
    st.lists(
        st.one_of(st.tuples(st.just("put"), CLIENTS), st.tuples(st.just("back"), CLIENTS), st.just("take"))
    )
)
def test_queue_gives_each_client_its_own_in_order_and_no_client_two_before_another(
    steps: list[object],
) -> None:
    queue: FairQueue[int] = FairQueue()
    lines: dict[str, deque[int]] = {name: deque() for name in "abc"}
    passed: Counter[str] = Counter()  # by others, while a client waits
    for number, step in enumerate(steps):
        if step == "take":
            if not queue:
                continue
            item = queue.take()
            (taken,) = [name for name, line in lines.items() if line and line[0] == item]
            lines[taken].popleft()
            for name, line in lines.items():
                passed[name] = passed[name] + 1 if line and name != taken else 0
            assert max(passed.values()) <= 2  # one turn of each other client
        else:
            assert isinstance(step, tuple)
            if step[0] == "put":
                lines[step[1]].append(number)
                queue.put(step[1], number)
            else:
                lines[step[1]].appendleft(number)
                queue.put_back(step[1], number)
        assert len(queue) == sum(map(len, lines.values()))
        assert queue.clients == sum(map(bool, lines.values()))
        assert all(queue.held(name) == len(line) for name, line in lines.items())


async def test_turn_of_a_client_with_one_slice_comes_among_the_first_of_a_thousand() -> None:
    turns, done = FairTurns(), list[str]()

    async def work(client: str) -> None:
        await turns.next(client)
        done.append(client)

    many = [asyncio.ensure_future(work("many")) for _ in range(1_000)]
    await asyncio.sleep(0)
    await work("one")

    assert len(done) <= 3
    await asyncio.gather(*many)


async def test_place_goes_to_each_client_in_turn() -> None:
    places, order = FairSemaphore(2), list[str]()

    async def work(client: str) -> None:
        async with places.one(client):
            order.append(client)
            await asyncio.sleep(0)

    await asyncio.gather(*(work("many") for _ in range(100)), *(work("few") for _ in range(3)))

    assert "".join(each[0] for each in order).startswith("mm" + "mf" * 3)


async def test_place_of_one_that_is_cancelled_goes_to_the_next() -> None:
    places = FairSemaphore(1)
    await places.acquire()
    waiting = [asyncio.ensure_future(places.acquire(client)) for client in "abc"]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)

    places.release()
    waiting[1].cancel()  # it has been given the slot, but has not run yet
    await asyncio.wait_for(waiting[2], 60)

    places.release()
    await asyncio.wait_for(places.acquire(), 60)
