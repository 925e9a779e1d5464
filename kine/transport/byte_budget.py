"""Bytes kept for clients: one budget for the server, one account for each connection.

What clients have sent and nobody has used up yet is counted beside, as `received`, and has the same limit:
beyond it the client with the most loses the largest of its requests that have not come whole.

What is counted: answers made but not yet taken by the socket, and answers being put together. Each piece
counts with what it costs to keep it, so that many tiny answers count as well.

What clients have the server keep for as long as they like is counted beside, too, as `kept`: open streams,
the messages with their handlers, watches. It has the same limit, and nothing to wait for: a client is
refused what would make its part larger than half of what is free then, or than `ALWAYS` where that is more.
So one client has a third of the limit at most, and a newcomer a little, however many take all they can.

Invariant, after every call: `Budget.queued` is the sum of its accounts' `queued`, and `Budget.kept` of their
`kept`, no figure is below zero, no account has more reserved than queued, nor more unpacked than reserved,
and a closed one holds nothing; `kept` is at most the limit and, for each account, `ALWAYS`. From it follows
the bound: a client whose account is `over` is not listened to, so the server holds at most its limit and, for
each connection, the answers to what was taken in before, or one answer that is larger than fits.

An account is over when it holds more than its share, or holds anything while all together hold more than
the limit. A client that takes its answers holds nothing, and is served whatever others do.
"""

from __future__ import annotations

from typing import Protocol

SHARES = 4  # one connection may hold one part of so many
PIECE = 256  # bytes that a queued piece costs besides its own
ALWAYS = 64 * 1024  # bytes that a connection may have kept, whatever others have
_ENOUGH = 1024 * 1024  # bytes that a client others wait for must take in each period of patience


class BudgetedClient(Protocol):
    """One connection, as its account sees it."""

    def resume(self) -> None:
        """The account that waited has room again. Called from within whatever made it: only take note."""

    def shed(self) -> bool:
        """Drops its largest request that has not come whole; false if it has none."""

    def cut_off(self) -> None:
        """Its client takes nothing, and others wait for the room: drop what is queued, end the connection."""


class ByteBudget:
    """What all connections of a server may hold."""

    __slots__ = (
        "accounts", "closed_slow", "kept", "limit", "look_above", "queued", "received", "refused", "share",
        "shed", "unpacked", "waiting",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.share = max(1, limit // SHARES)
        self.queued = 0
        self.unpacked = 0  # of these, for requests
        self.received = 0  # bytes of requests, half of them or whole
        self.kept = 0
        self.refused = 0  # streams, messages and watches, as there was no room to keep them
        self.shed = 0  # requests that were dropped as too many were half sent
        self.look_above = limit
        self.closed_slow = 0  # connections that were cut off
        self.accounts: set[ByteAccount] = set()
        self.waiting: dict[ByteAccount, None] = {}

    def account(self, client: BudgetedClient) -> ByteAccount:
        account = ByteAccount(self, client)
        self.accounts.add(account)
        return account

    def make_room(self) -> None:
        """Drops half sent requests, until no more is held than may be."""
        while self.received > self.limit:
            largest = max(self.accounts, key=_received)
            if (
                not largest.client.shed()
            ):  # all of it is being answered: to be looked at again when it is more
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
        """Asked now and then. Those that hold the most go first, until nobody has to wait for them."""
        self.look_above = self.limit
        stalled = [account for account in self.accounts if account.stalled(now, patience)]
        for account in sorted(stalled, key=_holding, reverse=True):
            if account.pressing:
                self.closed_slow += 1
                account.client.cut_off()


class ByteAccount:
    """What one connection holds. Besides, the connection's identity for whoever counts by client."""

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
        self.reserved = 0  # of these, for what is being made: nothing that the client could take yet
        self.unpacked = 0  # of these, for requests
        self.taken = 0  # bytes that have left, ever
        self.wanted = 0  # bytes of the answer that waits for room; 0: none does
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
        """So much of what has left waits for the socket after all; it has left when it is removed."""
        if not self.closed:
            self.taken -= size
            self.add(size)

    def reserve(self, size: int) -> None:
        """Adds what is being made or waits to be; `release` takes it away when it is queued or given up."""
        if not self.closed:
            self.reserved += size
            self.add(size)

    def release(self, size: int) -> None:
        if not self.closed:
            self.reserved -= size
            self.taken -= size  # for it was not
            self.remove(size)

    def unpack(self, size: int) -> None:
        """Reserves what a request has become. It goes once answered, so no answer waits for it to go."""
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
        """Bytes of a request have come. `let_go` takes them away; `crowded` is to be looked at."""
        if not self.closed:
            self.received += size
            self._budget.received += size

    def release_received(self, size: int) -> None:
        if not self.closed:
            self.received -= size
            self._budget.received -= size

    def keep(self, size: int) -> bool:
        """Counts what the client has the server keep; `give_up` takes it away. False: it must be refused."""
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
        """`ByteBudget.make_room` should be called."""
        budget = self._budget
        return budget.received > budget.look_above

    def make_room(self) -> None:
        self._budget.make_room()

    def close(self) -> None:
        """The connection is gone, and what was queued with it."""
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
        """Nothing more should be taken in from this client."""
        budget = self._budget
        return self.queued > budget.share or (self.queued > 0 and budget.queued > budget.limit)

    @property
    def roomy(self) -> bool:
        """What has waited may go on: with room to spare, so that it does not stop at once."""
        budget = self._budget
        return not self.queued or (
            self.queued <= budget.share // 2 and budget.queued <= budget.limit // SHARES * (SHARES - 1)
        )

    def fits(self, size: int) -> bool:
        """May an answer of so many bytes be made? One of any size may, where half of the room is free."""
        budget = self._budget
        own, everyones = self.queued - self.unpacked, budget.queued - budget.unpacked
        return (own + size <= budget.share or own <= budget.share // 2) and (
            everyones + size <= budget.limit or everyones <= budget.limit // 2
        )

    def wait(self) -> None:
        """Has the client resumed once there is room."""
        if not self.closed:
            self._budget.waiting[self] = None

    @property
    def pressing(self) -> bool:
        """Somebody waits, or soon will, for this client to take what it has asked for."""
        budget = self._budget
        if self.queued <= self.reserved:
            return False
        if self.queued > budget.share // 2 and (self.over or self in budget.waiting):
            return True
        return budget.queued > budget.limit or (budget.queued > budget.limit // 2 and bool(budget.waiting))

    def stalled(self, now: float, patience: float) -> bool:
        """Asked now and then: has the client, while pressing, taken too little for so many seconds?

        Enough is what was queued for it when they began, or a megabyte of that.
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
