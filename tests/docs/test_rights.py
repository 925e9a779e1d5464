"""The GRANT statements in docs/backends.md suffice: kine serves as the user they create."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.client import Client
from tests.databases import mysql as mysql_binary
from tests.databases import postgres as postgres_binary
from tests.docs.blocks import ROOT, blocks
from tests.servers import mysql, postgres
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "postgres": (postgres_binary.missing, postgres.database_server, "postgres://{}:secret@127.0.0.1:{}/{}"),
    "mysql": (mysql_binary.missing, mysql.database_server, "mysql://{}:secret@tcp(127.0.0.1:{})/{}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kine_serves_as_the_user_of_the_page(kind: str, tmp_path: Path) -> None:
    missing, database_server, endpoint = KINDS[kind]
    if reason := missing():
        pytest.skip(reason)
    running = database_server()
    [block] = [one for one in blocks(ROOT / "docs" / "backends.md") if one.servers == (kind,)]
    database = running.new_database()  # whose name is the user's, too
    with closing(running.admin()) as admin, admin.cursor() as cursor:
        for statement in block.text.replace("kine", database).split(";\n")[:-1]:
            cursor.execute(statement)

    server = start_kine(endpoint.format(database, running.port, database), "http2", tmp_path)
    with Client(server.address) as client:
        client.put(b"/greeting", b"hello")
        assert client.range(b"/greeting").kvs[0].value == b"hello"
    assert server.stop() == 0
