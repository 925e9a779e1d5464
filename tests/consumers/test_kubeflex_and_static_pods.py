"""kubeflex, kube-shard, iknite, static pods: flags with one dash, tcp:// addresses, a probe over HTTPS."""

from __future__ import annotations

import ssl
import urllib.request
from typing import TYPE_CHECKING

import grpc
import trustme

from tests.certificates import write_authority, write_pair
from tests.client import Client
from tests.databases.process import free_port
from tests.executable import address

if TYPE_CHECKING:
    from tests.consumers.conftest import Place


def test_one_dash_tcp_addresses_and_a_probe_of_metrics_over_https(place: Place) -> None:
    place.stage("/bin/kine")
    place.directory("/certs")
    place.directory("/db", owner=65534, group=65534)
    authority = trustme.CA()
    write_authority(place.outside("/certs"), authority)
    write_pair(place.outside("/certs"), authority)
    for path in place.outside("/certs").iterdir():
        path.chmod(0o644)
    port = free_port()
    kine = place.start(
        "/bin/kine",
        [
            "-endpoint", f"sqlite://{place.inside('/db/state.db')}",
            "-listen-address", "tcp://127.0.0.1:0",
            "-metrics-bind-address", f"127.0.0.1:{port}",
            "-compact-interval=30m0s",
            "-server-cert-file", place.inside("/certs/server.pem"),
            "-server-key-file", place.inside("/certs/server.key"),
        ],
        directory="/db",
    )  # fmt: skip
    where = address(kine)
    ca = place.outside("/certs/ca.pem")
    with Client(where, grpc.ssl_channel_credentials(ca.read_bytes())) as client:
        client.put(b"/a", b"1")
    probe = ssl.create_default_context(cafile=str(ca))
    with urllib.request.urlopen(f"https://127.0.0.1:{port}/metrics", timeout=30, context=probe) as answer:
        assert b"kine_sql_total" in answer.read()
    kine.terminate()
    assert kine.wait(60) == 0
