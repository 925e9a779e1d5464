"""Tables altered under a running server so that writes are unsafe: none is accepted until it is undone."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.client import Client
from tests.databases.process import free_port
from tests.drivers.test_start_errors import readiness
from tests.faults.run_databases import missing, new_place
from tests.servers.kine import start_kine

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)"
ALTERED = {
    "mysql engine": ("ALTER TABLE kine ENGINE=MyISAM", "ALTER TABLE kine ENGINE=InnoDB", "MyISAM"),
    "mysql index": ("DROP INDEX kine_name_prev_revision_uindex ON kine", INDEX, "unique index"),
    "postgres unlogged": ("ALTER TABLE kine SET UNLOGGED", "ALTER TABLE kine SET LOGGED", "not logged"),
    "postgres index": ("DROP INDEX kine_name_prev_revision_uindex", INDEX, "unique index"),
}
NOTICED = {
    "status": lambda client, revision: client.status(),
    "compact": lambda client, revision: client.compact(revision),
}


@pytest.mark.parametrize("notice", NOTICED)
@pytest.mark.parametrize("altered", ALTERED)
def test_no_write_is_taken_from_when_it_is_noticed_until_it_is_mended(
    altered: str, notice: str, tmp_path: Path
) -> None:
    kind = altered.partition(" ")[0]
    if reason := missing(kind):
        pytest.skip(reason)
    alter, mend, said = ALTERED[altered]
    place = new_place(kind)
    metrics = f"127.0.0.1:{free_port()}"
    server = start_kine(place.endpoint(), "http2", tmp_path, flags=(f"--metrics-bind-address={metrics}",))
    try:
        with Client(server.address) as client, closing(place.go()) as go:
            revision = client.put(b"/a", b"1").header.revision
            go.run(alter)
            if notice == "compact":
                with pytest.raises(grpc.RpcError):
                    client.compact(revision)
            else:
                client.status()

            for write in (lambda: client.put(b"/a", b"2"), lambda: client.grant(60)):
                with pytest.raises(grpc.RpcError) as refused:
                    write()
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert client.get(b"/a").value == b"1"
            assert said in readiness(metrics)
            assert server.log.read_text().count("no write is taken any more") == 1

            go.run(mend)
            while True:
                try:
                    client.put(b"/a", b"3")
                    break
                except grpc.RpcError:
                    pass
            assert readiness(metrics) == ""
            assert client.grant(60).TTL == 60
    finally:
        server.kill()
