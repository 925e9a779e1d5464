"""The byte budget's invariant, under any order of adding, taking and closing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kine.transport.byte_budget import ALWAYS, SHARES, ByteBudget

if TYPE_CHECKING:
    from kine.transport.byte_budget import ByteAccount

LIMIT = 4_000_000
SIZES = st.integers(1, LIMIT // 2)
PATIENCE = 20.0


class Connection:
    """A client that counts the calls it receives."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    def resume(self) -> None:
        self.told["resume"] += 1

    def shed(self) -> bool:
        return False

    def cut_off(self) -> None:
        self.told["cut off"] += 1


def opened(budget: ByteBudget, queued: int = 0) -> tuple[ByteAccount, Connection]:
    connection = Connection()
    account = budget.account(connection)
    account.add(queued)
    return account, connection


class Budgets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.budget = ByteBudget(LIMIT)
        self.accounts: list[tuple[ByteAccount, Connection]] = []
        self.held: list[int] = []  # by account, as the model has it
        self.reserved: list[int] = []
        self.unpacked: list[int] = []
        self.kept: list[int] = []
        self.now = 0.0

    @rule()
    def open(self) -> None:
        if len(self.accounts) < 8:
            self.accounts.append(opened(self.budget))
            self.held.append(0)
            self.reserved.append(0)
            self.unpacked.append(0)
            self.kept.append(0)

    @rule(which=st.integers(0, 7), size=SIZES)
    def add(self, which: int, size: int) -> None:
        if which < len(self.accounts) and not self.accounts[which][0].closed:
            self.accounts[which][0].add(size)
            self.held[which] += size

    @rule(which=st.integers(0, 7), size=SIZES)
    def put_back(self, which: int, size: int) -> None:
        if which < len(self.accounts) and not self.accounts[which][0].closed:
            before = self.accounts[which][0].taken
            self.accounts[which][0].put_back(size)
            self.held[which] += size
            assert self.accounts[which][0].taken == before - size

    @rule(which=st.integers(0, 7), part=st.floats(0, 1))
    def remove(self, which: int, part: float) -> None:
        if which < len(self.accounts):
            size = int((self.held[which] - self.reserved[which]) * part)
            self.accounts[which][0].remove(size)
            self.held[which] -= size

    @rule(which=st.integers(0, 7))
    def close(self, which: int) -> None:
        if which < len(self.accounts):
            account = self.accounts[which][0]
            account.close()
            self.held[which] = self.reserved[which] = self.unpacked[which] = self.kept[which] = 0
            assert account.keep(LIMIT)
            account.give_up(LIMIT)
            account.add(1)  # what a call that ends late does
            account.remove(1)
            account.reserve(1)
            account.release(1)

    @rule(which=st.integers(0, 7), size=SIZES)
    def reserve(self, which: int, size: int) -> None:
        if which < len(self.accounts) and not self.accounts[which][0].closed:
            self.accounts[which][0].reserve(size)
            self.held[which] += size
            self.reserved[which] += size

    @rule(which=st.integers(0, 7))
    def release(self, which: int) -> None:
        if which < len(self.accounts):
            released = self.reserved[which] - self.unpacked[which]
            self.accounts[which][0].release(released)
            self.held[which] -= released
            self.reserved[which] -= released

    @rule(which=st.integers(0, 7), size=SIZES)
    def unpack(self, which: int, size: int) -> None:
        if which < len(self.accounts) and not self.accounts[which][0].closed:
            self.accounts[which][0].unpack(size)
            self.held[which] += size
            self.reserved[which] += size
            self.unpacked[which] += size

    @rule(which=st.integers(0, 7))
    def drop_unpacked(self, which: int) -> None:
        if which < len(self.accounts):
            self.accounts[which][0].drop_unpacked(self.unpacked[which])
            self.held[which] -= self.unpacked[which]
            self.reserved[which] -= self.unpacked[which]
            self.unpacked[which] = 0

    @rule(which=st.integers(0, 7), size=SIZES)
    def keep(self, which: int, size: int) -> None:
        if which < len(self.accounts) and not self.accounts[which][0].closed:
            free = LIMIT - sum(self.kept)
            kept = self.accounts[which][0].keep(size)
            assert kept == (self.kept[which] + size <= max(free // 2, ALWAYS))
            self.kept[which] += size * kept

    @rule(which=st.integers(0, 7), part=st.floats(0, 1))
    def give_up(self, which: int, part: float) -> None:
        if which < len(self.accounts):
            size = int(self.kept[which] * part)
            self.accounts[which][0].give_up(size)
            self.kept[which] -= size

    @rule(which=st.integers(0, 7), wanted=st.none() | SIZES)
    def wait(self, which: int, wanted: int | None) -> None:
        if which < len(self.accounts):
            account = self.accounts[which][0]
            account.wanted = wanted or 0
            if not account.roomy and not account.closed:
                account.wait()

    @rule(seconds=st.floats(0, 2 * PATIENCE))
    def look(self, seconds: float) -> None:
        self.now += seconds
        self.budget.cut_off_stalled(self.now, PATIENCE)

    @invariant()
    def sums(self) -> None:
        assert [account.queued for account, _ in self.accounts] == self.held
        assert [account.reserved for account, _ in self.accounts] == self.reserved
        assert self.budget.queued == sum(self.held)
        assert [account.unpacked for account, _ in self.accounts] == self.unpacked
        assert self.budget.unpacked == sum(self.unpacked)
        assert [account.kept for account, _ in self.accounts] == self.kept
        assert self.budget.kept == sum(self.kept) <= LIMIT + 8 * ALWAYS
        assert self.budget.accounts == {account for account, _ in self.accounts if not account.closed}

    @invariant()
    def nobody_waits_who_has_room(self) -> None:
        for account in self.budget.waiting:
            assert not account.closed
            assert not account.roomy or not account.fits(account.wanted)

    @invariant()
    def clients_that_hold_nothing_are_listened_to(self) -> None:
        for (account, _), held in zip(self.accounts, self.held, strict=True):
            assert account.over == (held > LIMIT // SHARES or (held > 0 and self.budget.queued > LIMIT))


TestBudgets = Budgets.TestCase


class Half(Connection):
    """A client with half-sent requests, which can be dropped, and complete ones, which cannot."""

    def __init__(self, budget: ByteBudget) -> None:
        super().__init__()
        self.account = budget.account(self)
        self.halves: list[int] = []

    def shed(self) -> bool:
        if not self.halves:
            return False
        self.halves.sort()
        self.account.release_received(self.halves.pop())
        return True


@given(st.lists(st.tuples(st.integers(0, 3), SIZES, st.booleans()), max_size=60))
def test_half_sent_requests_never_hold_more_than_the_limit(came: list[tuple[int, int, bool]]) -> None:
    budget = ByteBudget(LIMIT)
    clients = [Half(budget) for _ in range(4)]
    for which, size, half in came:
        client = clients[which]
        client.account.take_in(size)
        if half:
            client.halves.append(size)
        if client.account.crowded:
            client.account.make_room()
        budget.cut_off_stalled(0.0, PATIENCE)  # as happens periodically, its scan starts again
        if client.account.crowded:
            client.account.make_room()
        assert budget.received == sum(client.account.received for client in clients)
        assert (
            not client.halves
            or budget.received <= LIMIT
            or max(clients, key=lambda one: one.account.received).halves == []
        )
    for client in clients:
        client.account.close()
    assert budget.received == 0


def test_newcomer_has_something_kept_however_many_keep_all_they_may() -> None:
    budget = ByteBudget(LIMIT)
    for _ in range(60):
        account, _ = opened(budget)
        while account.keep(1000):
            assert account.kept <= LIMIT // 3
    newcomer, _ = opened(budget)

    assert newcomer.keep(ALWAYS)
    assert budget.kept <= LIMIT + 61 * ALWAYS


def test_client_that_waits_goes_on_once_others_have_taken_theirs() -> None:
    budget = ByteBudget(LIMIT)
    first, _ = opened(budget, LIMIT)
    second, waiting = opened(budget)
    second.wanted = LIMIT // SHARES
    assert not second.fits(second.wanted)
    second.wait()

    first.remove(LIMIT // 2)

    assert waiting.told["resume"] == 1
    assert not budget.waiting


def test_answer_of_any_size_fits_where_half_is_free() -> None:
    account, _ = opened(ByteBudget(LIMIT), LIMIT // SHARES // 2)

    assert account.fits(100 * LIMIT)


def test_answers_of_any_size_fit_while_only_requests_are_held() -> None:
    account, _ = opened(ByteBudget(LIMIT))
    account.unpack(2 * LIMIT)

    assert account.fits(100 * LIMIT)


def test_client_over_its_share_is_cut_off_unless_it_takes_enough() -> None:
    budget = ByteBudget(LIMIT)
    slow, slows = opened(budget, LIMIT // SHARES + 100)
    steady, steadys = opened(budget, LIMIT // SHARES + 100)
    for now in range(0, 101, 5):
        budget.cut_off_stalled(now, PATIENCE)
        steady.remove(LIMIT // SHARES // 2)
        steady.add(LIMIT // SHARES // 2)
        slow.remove(1)

    assert slows.told["cut off"] == 5
    assert steadys.told["cut off"] == 0
    assert budget.closed_slow == 5


def test_the_largest_is_cut_off_first_and_those_nobody_waits_for_stay() -> None:
    budget = ByteBudget(LIMIT)
    large, larges = opened(budget, LIMIT)
    _, smalls = opened(budget, 1000)
    larges.cut_off = large.close  # type: ignore[method-assign]
    budget.cut_off_stalled(0, PATIENCE)
    budget.cut_off_stalled(PATIENCE, PATIENCE)

    assert large.closed
    assert smalls.told["cut off"] == 0


def test_client_that_holds_little_while_nobody_waits_is_never_cut_off() -> None:
    budget = ByteBudget(LIMIT)
    _, connection = opened(budget, LIMIT // SHARES // 2)
    for now in range(0, 1000, 10):
        budget.cut_off_stalled(now, PATIENCE)

    assert connection.told["cut off"] == 0


def test_client_whose_answer_is_still_being_made_is_never_cut_off() -> None:
    budget = ByteBudget(LIMIT)
    account, connection = opened(budget)
    account.reserve(2 * LIMIT)
    other, _ = opened(budget)
    other.wanted = LIMIT
    other.wait()
    for now in range(0, 1000, 10):
        budget.cut_off_stalled(now, PATIENCE)

    assert connection.told["cut off"] == 0
