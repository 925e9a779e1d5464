"""Memory accounting for clients: one byte budget for the server, one account for each connection.

Three totals are counted, each with the same limit:

- `queued`: responses that the socket has not accepted yet, and responses being built. Each piece counts with
  the memory that it costs, so that many tiny responses count as well.
- `received`: request bytes that no handler has consumed yet. Above the limit, the client with the most of
  them loses its largest incomplete request.
- `kept`: state that lives as long as the client wants: open streams, messages held by handlers, watches.
  There is no point in waiting for such memory, so a request for more is refused if the client's part would
  exceed half of what is free, or `ALWAYS` if that is more. So one client gets a third of the limit at most,
  and a new client always gets a little, however many others take all they can.

An account is `over` when it has more queued than its share, or has anything queued while all accounts
together exceed the limit. A client that reads its responses has nothing queued, and is served whatever others
do.

Invariant, after every call: `ByteBudget.queued` is the sum of its accounts' `queued`, and `ByteBudget.kept`
of their `kept`; no figure is below zero; no account has more reserved than queued, nor more unpacked than
reserved; a closed account holds nothing; `kept` is at most the limit plus, for each account, `ALWAYS`.
It bounds memory: the server reads nothing from a client whose account is `over`, so it holds at most its
limit plus, for each connection, the responses to requests read before, or one response larger than fits.
"""

from __future__ import annotations

from typing import Protocol

SHARES = 4  # one connection may hold 1/SHARES of the limit
PIECE = 256  # bytes of overhead of a queued piece
ALWAYS = 64 * 1024  # bytes that a connection may always have kept, whatever others have
_ENOUGH = 1024 * 1024  # bytes that a client which blocks others must read in each period of patience


class BudgetedClient(Protocol):
    """One connection, as its account sees it."""

    def resume(self) -> None:
        """Called when the waiting account has room, amid the call that made it: only schedule work here."""

    def shed(self) -> bool:
        """Drops its largest incomplete request; false if it has none."""

    def cut_off(self) -> None:
        """Drops what is queued and ends the connection, whose client does not read while others need room."""


class PassiveClient:
    """A `BudgetedClient` that frees no memory: its connection has a budget of its own, or no peer."""

    def resume(self) -> None:
        pass

    def shed(self) -> bool:
        return False

    def cut_off(self) -> None:
        pass


class ByteBudget:
    """The memory that all connections of a server may hold for their clients."""

    __slots__ = (
        "accounts", "closed_slow", "kept", "limit", "look_above", "queued", "received", "refused", "share",
        "shed", "unpacked", "waiting",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.share = max(1, limit // SHARES)
        self.queued = 0
        self.unpacked = 0  # of the queued bytes: decompressed requests
        self.received = 0  # bytes of complete and incomplete requests
        self.kept = 0
        self.refused = 0  # streams, messages and watches refused because `kept` had no room
        self.shed = 0  # incomplete requests that were dropped
        self.look_above = limit
        self.closed_slow = 0  # connections closed because the client did not read
        self.accounts: set[ByteAccount] = set()
        self.waiting: dict[ByteAccount, None] = {}

    def account(self, client: BudgetedClient) -> ByteAccount:
        account = ByteAccount(self, client)
        self.accounts.add(account)
        return account

    def make_room(self) -> None:
        """Drops incomplete requests until `received` is within the limit."""
        while self.received > self.limit:
            largest = max(self.accounts, key=_received)
            if not largest.client.shed():
                # Every request is being answered: check again only when more has been received.
                self.look_above = self.received + _ENOUGH
                return
            self.shed += 1
        self.look_above = self.limit

    def wake(self) -> None:
        for account in tuple(self.waiting):
            if account.roomy or (account.wanted and account.fits(account.wanted)):
                self.waiting.pop(account, None)
                account.client.resume()

    def cut_off_stalled(self, now: float, patience: float) -> None:
        """Disconnects stalled clients, the largest accounts first, until no other client waits for them.

        Called periodically.
        """
        self.look_above = self.limit
        stalled = [account for account in self.accounts if account.stalled(now, patience)]
        for account in sorted(stalled, key=_holding, reverse=True):
            if account.pressing:
                self.closed_slow += 1
                account.client.cut_off()


class ByteAccount:
    """The memory that one connection holds. It also serves as the client's identity for per-client limits."""

    __slots__ = (
        "_begun", "_budget", "_owed", "_taken_then", "client",
        "closed", "kept", "queued", "received", "reserved", "taken", "unpacked", "wanted",
    )  # fmt: skip

    def __init__(self, budget: ByteBudget, client: BudgetedClient) -> None:
        self._budget = budget
        self.client = client
        self.queued = 0
        self.received = 0
        self.kept = 0
        self.reserved = 0  # of the queued bytes: responses being built, which the client cannot read yet
        self.unpacked = 0  # of the reserved bytes: decompressed requests
        self.taken = 0  # bytes sent so far
        self.wanted = 0  # bytes of the response that waits for room; 0: none does
        self.closed = False
        self._begun = -1.0  # when it was first seen to be pressing; negative: it is not
        self._owed = self._taken_then = 0

    def add(self, size: int) -> None:
        if not self.closed:
            self.queued += size
            self._budget.queued += size

    def remove(self, size: int) -> None:
        if self.closed:
            return
        budget = self._budget
        self.queued -= size
        self.taken += size
        budget.queued -= size
        if budget.waiting:
            budget.wake()

    def put_back(self, size: int) -> None:
        """Counts bytes as queued again that the socket did not accept yet; `remove` them once it has."""
        if not self.closed:
            self.taken -= size
            self.add(size)

    def reserve(self, size: int) -> None:
        """Counts a response that is being built; `release` takes it away when it is queued or given up."""
        if not self.closed:
            self.reserved += size
            self.add(size)

    def release(self, size: int) -> None:
        if not self.closed:
            self.reserved -= size
            self.taken -= size  # `remove` counts it as sent, which it was not
            self.remove(size)

    def unpack(self, size: int) -> None:
        """Reserves the size of a decompressed request. `fits` ignores it: it is freed only once answered."""
        if not self.closed:
            self.unpacked += size
            self._budget.unpacked += size
            self.reserve(size)

    def drop_unpacked(self, size: int) -> None:
        if not self.closed:
            self.unpacked -= size
            self._budget.unpacked -= size
            self.release(size)

    def take_in(self, size: int) -> None:
        """Counts received request bytes; `release_received` takes them away. Check `crowded` afterwards."""
        if not self.closed:
            self.received += size
            self._budget.received += size

    def release_received(self, size: int) -> None:
        if not self.closed:
            self.received -= size
            self._budget.received -= size

    def keep(self, size: int) -> bool:
        """Counts state kept for the client; `give_up` takes it away. False: there is no room, refuse it."""
        budget = self._budget
        if self.closed:
            return True
        if self.kept + size > max((budget.limit - budget.kept) // 2, ALWAYS):
            budget.refused += 1
            return False
        self.kept += size
        budget.kept += size
        return True

    def give_up(self, size: int) -> None:
        if not self.closed:
            self.kept -= size
            self._budget.kept -= size

    @property
    def crowded(self) -> bool:
        """True if `make_room` should be called."""
        budget = self._budget
        return budget.received > budget.look_above

    def make_room(self) -> None:
        self._budget.make_room()

    def close(self) -> None:
        """Frees everything counted for the connection, which has ended."""
        budget = self._budget
        budget.waiting.pop(self, None)
        self.release_received(self.received)
        self.give_up(self.kept)
        budget.unpacked -= self.unpacked
        self.remove(self.queued)
        self.reserved = self.unpacked = 0
        self.closed = True
        budget.accounts.discard(self)

    @property
    def over(self) -> bool:
        """True if nothing more should be read from this client."""
        budget = self._budget
        return self.queued > budget.share or (self.queued > 0 and budget.queued > budget.limit)

    @property
    def roomy(self) -> bool:
        """True if waiting work may resume: well below the limits, so that it does not stop again at once."""
        budget = self._budget
        return not self.queued or (
            self.queued <= budget.share // 2 and budget.queued <= budget.limit // SHARES * (SHARES - 1)
        )

    def fits(self, size: int) -> bool:
        """True if a response of so many bytes may be built. Any size fits while half of the limit is free."""
        budget = self._budget
        own, everyones = self.queued - self.unpacked, budget.queued - budget.unpacked
        return (own + size <= budget.share or own <= budget.share // 2) and (
            everyones + size <= budget.limit or everyones <= budget.limit // 2
        )

    def wait(self) -> None:
        """Registers for `client.resume` to be called once there is room."""
        if not self.closed:
            self._budget.waiting[self] = None

    @property
    def pressing(self) -> bool:
        """True if this client's unread responses block others, or soon will."""
        budget = self._budget
        if self.queued <= self.reserved:
            return False
        if self.queued > budget.share // 2 and (self.over or self in budget.waiting):
            return True
        return budget.queued > budget.limit or (budget.queued > budget.limit // 2 and bool(budget.waiting))

    def stalled(self, now: float, patience: float) -> bool:
        """True if the client was pressing for `patience` seconds and read too little. Called periodically.

        Enough is all that was queued for it at the start of the period, or 1 MiB if that is less.
        """
        if not self.pressing:
            self._begun = -1.0
            return False
        if self._begun >= 0 and now - self._begun < patience:
            return False
        too_little = self._begun >= 0 and self.taken - self._taken_then < self._owed
        self._begun = now
        self._taken_then = self.taken
        self._owed = min(self.queued - self.reserved, _ENOUGH)
        return too_little


def _holding(account: ByteAccount) -> int:
    return account.queued


def _received(account: ByteAccount) -> int:
    return account.received
