"""The old value that a row keeps for Go kine: removed as soon as no client can ask for it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from grpc import StatusCode

from tests.client import Client, refused
from tests.commands.conftest import told
from tests.drivers.conftest import _place as new_place
from tests.servers.kine import start_kine
from tests.txn_ops import delete, get, modified

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers.driver_databases import Place

HEALTH = b"/registry/health"
PLAIN, CIPHER = b"the plaintext of a secret", b"its ciphertext"


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


def old_values(place: Place) -> list[tuple[int, bytes]]:
    with closing(place.go()) as go:
        rows = go.run("SELECT id, old_value FROM kine WHERE old_value IS NOT NULL ORDER BY id")
    return [(row_id, bytes(value)) for row_id, value in rows]


def test_compaction_leaves_no_copy_of_what_was_overwritten(place: Place, tmp_path: Path) -> None:
    instance = start_kine(place.endpoint(), "http2", tmp_path)
    with Client(instance.address) as client, client.watch() as watch:
        client.put(b"/secret", PLAIN)
        encrypted = client.put(b"/secret", CIPHER).header.revision
        client.put(b"/other", b"1")
        assert old_values(place) == [(encrypted, PLAIN)]

        compacted = client.put(b"/other", b"2").header.revision
        later = client.put(b"/other", b"3").header.revision
        client.compact(compacted, physical=True)

        assert old_values(place) == [(later, b"2")], "a watch from the compact revision on asks for that"
        item = client.get(b"/secret")
        assert item is not None
        assert (item.value, item.version) == (CIPHER, 2)
        watch.create(b"/", b"0", start_revision=compacted, prev_kv=True)
        assert [event.prev_kv.value for event in watch.events(2)][-1] == b"2"
    assert instance.stop() == 0
    assert told("check", "--endpoint", place.endpoint()).out == "nothing found\n"


# A server without space for a value or a copy of one: the error is that of a full disk.
NO_ROOM = {
    "postgres": (
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$",
        "CREATE TRIGGER no_room BEFORE INSERT ON kine FOR EACH ROW"
        " WHEN (NEW.value IS NOT NULL OR NEW.old_value IS NOT NULL) EXECUTE FUNCTION no_room()",
        "CREATE TRIGGER no_room_to_cut BEFORE UPDATE ON kine FOR EACH ROW"
        " WHEN (OLD.old_value IS NOT NULL) EXECUTE FUNCTION no_room()",
    ),
    "mysql": (
        "CREATE TRIGGER no_room BEFORE INSERT ON kine FOR EACH ROW BEGIN IF NEW.value IS NOT NULL"
        " THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114; END IF; END",
        "CREATE TRIGGER no_room_to_cut BEFORE UPDATE ON kine FOR EACH ROW BEGIN"
        " IF NEW.old_value IS NOT NULL OR OLD.old_value IS NOT NULL"
        " THEN SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114; END IF; END",
    ),
}


def test_a_full_database_deletes_and_compacts_without_copies(shared_place: Place, tmp_path: Path) -> None:
    on_table = " ON kine" if shared_place.kind == "postgres" else ""
    instance = start_kine(shared_place.endpoint(), "http2", tmp_path)
    with closing(shared_place.go()) as go, Client(instance.address) as client:
        for number in range(4):
            client.put(b"/%d" % number, PLAIN)
        client.put(b"/0", CIPHER)
        kept = client.put(b"/3", CIPHER).header.revision
        for statement in NO_ROOM[shared_place.kind]:
            go.run(statement)
        with refused(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"):
            client.put(b"/0", PLAIN)
        assert client.delete(b"/0").deleted == 1
        found = client.get(b"/1")
        assert found is not None
        change = [modified(b"/1", "=", found.mod_revision)]
        assert client.txn(change, [delete(b"/1")], [get(b"/1")]).succeeded
        with refused(StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"):
            client.put(b"/0", PLAIN)
        client.compact(client.revision(), physical=True)
        assert old_values(shared_place) == [(kept, PLAIN)], "the row of the other is gone"
        assert [item.key for item in client.range(b"/", b"0").kvs if item.key != HEALTH] == [b"/2", b"/3"]

        for name in ("no_room", "no_room_to_cut"):
            go.run(f"DROP TRIGGER {name}{on_table}")
        client.put(b"/0", CIPHER)
        again = client.delete(b"/0").header.revision
        assert (again, CIPHER) in old_values(shared_place), "there is room again"
        assert client.delete(b"/2").deleted == 1
    assert instance.stop() == 0
    assert told("check", "--endpoint", shared_place.endpoint()).out == "nothing found\n"
