"""A database that becomes unreachable while its index is being loaded."""

from __future__ import annotations

import pytest

from kine import drivers
from kine.drivers.base import LogTail, Options, UnavailableError
from kine.drivers.memory import MemoryLog
from kine.store.store import Store, StoreSettings


async def test_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    log = drivers.connect("memory://", Options())
    await log.open()
    tail, away = MemoryLog.tail, 1
    reasons: list[str] = []  # why nothing can be read, at each call of `tail`

    async def flickering(log: MemoryLog, after: int, limit: int) -> LogTail:
        nonlocal away
        reasons.append(store.loading.reason)
        if away:
            away -= 1
            raise UnavailableError("gone for a moment")
        return await tail(log, after, limit)

    monkeypatch.setattr(MemoryLog, "tail", flickering)
    store = Store(log, StoreSettings())
    await store.open()
    try:
        assert (away, store.index.revision) == (0, 2)
        assert reasons[0].startswith("loading the index")
        assert store.loading.reason == ""
    finally:
        await store.close()
        await log.close()
