"""A request that loses every compare-and-swap is retried until a deadline, not a number of times."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kine.drivers.base import BehindError, Outcome, Write
from kine.drivers.memory import MemoryLog, _Rows
from kine.store.operations import Put, PutResult, Txn
from kine.store.store import Store, StoreSettings
from tests.client import Client
from tests.databases import mysql as mysql_binary
from tests.databases import postgres as postgres_binary
from tests.servers import mysql, postgres
from tests.servers.kine import start_kine

TIMES = 300


class Contended(MemoryLog):
    """A store on which another client has always just written the same key."""

    left = 0

    async def append(self, writes: Sequence[Write], head: int) -> Sequence[Outcome]:
        if self.left:
            self.left -= 1
            if self.left % 2:
                raise BehindError
            return [None] * len(writes)
        return await super().append(writes, head)


async def test_a_put_on_a_hot_key_succeeds_in_the_end() -> None:
    log = Contended(_Rows())
    store = Store(log, StoreSettings())
    await store.open()
    log.left = TIMES
    done = await store.txn(Txn([], [Put(b"/hot", b"value")], [], alone=True))
    assert isinstance(done.results[0], PutResult)
    assert not log.left
    await store.close()
    await log.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mysql"])
def test_all_puts_on_one_key_of_two_instances_succeed(kind: str, tmp_path: Path) -> None:
    endpoint = f"sqlite://{tmp_path / 'state.db'}"
    if kind != "sqlite":
        missing, server = {
            "postgres": (postgres_binary.missing, postgres.database_server),
            "mysql": (mysql_binary.missing, mysql.database_server),
        }[kind]
        if reason := missing():
            pytest.skip(reason)
        running = server()
        endpoint = running.endpoint(running.new_database())
    instances = [start_kine(endpoint, "http2", tmp_path / str(number)) for number in range(2)]

    def put(number: int) -> list[int]:
        with Client(instances[number % 2].address) as client:
            return [client.put(b"/hot", b"%d" % number).header.revision for _ in range(15)]

    with ThreadPoolExecutor(16) as clients:
        revisions = [revision for told in clients.map(put, range(16)) for revision in told]

    assert len(set(revisions)) == 16 * 15
    with Client(instances[0].address) as client:
        item = client.get(b"/hot")
        assert item is not None
        assert (item.version, item.mod_revision) == (16 * 15, max(revisions))
    assert [instance.stop() for instance in instances] == [0, 0]
