"""Private names of libraries that kine uses: each test fails when a library has changed one.

Then fix the `*_internals` module, or cap the version in pyproject.toml.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import botocore.session
import pymysql
from botocore.credentials import AssumeRoleProvider, create_credential_resolver
from hpack import Decoder, Encoder
from nats.aio.client import Client

from kine.drivers.mysql import pymysql_internals
from kine.drivers.nats import nats_internals
from kine.identity import botocore_internals
from kine.transport.http2 import hpack


def unconnected() -> Any:
    return pymysql.connect(host="127.0.0.1", user="kine", program_name="kine", defer_connect=True)


def test_pymysql_takes_more_attributes_before_it_connects() -> None:
    connection = unconnected()

    pymysql_internals.add_attributes(connection, [("of", "ours")])

    assert connection._connect_attrs.items() >= {"program_name": "kine", "of": "ours"}.items()


def test_pymysql_asks_for_tls_unless_it_is_optional() -> None:
    connection = pymysql.connect(host="127.0.0.1", ssl={"check_hostname": False}, defer_connect=True)
    assert connection._ssl_required is True

    pymysql_internals.encrypt_if_offered(connection)

    assert connection._ssl_required is False


def test_pymysql_reads_a_packet_from_its_socket_and_closes_that() -> None:
    ours, theirs = socket.socketpair()
    connection = unconnected()
    connection._sock, connection._rfile = ours, ours.makefile("rb")
    connection._next_seq_id, connection._current_timeout = 0, None
    with theirs:
        theirs.sendall(b"\x03\x00\x00\x00abc")

        assert pymysql_internals.socket_of(connection) is ours
        assert pymysql_internals.read_packet(connection).get_all_data() == b"abc"

        pymysql_internals.abort(connection)
        connection._rfile = None
        assert ours.fileno() == -1
        assert theirs.recv(1) == b""


async def test_nats_has_a_pool_of_servers_that_tells_which_were_tried() -> None:
    client = Client()
    assert nats_internals.tried(client) == 0
    client._setup_server_pool(["nats://127.0.0.1:1", "nats://127.0.0.1:2"])
    assert nats_internals.tried(client) == 0

    first, second = client._server_pool
    first.last_attempt = 1.0
    assert nats_internals.tried(client) == 1
    client._current_server = first
    assert nats_internals.tried(client) == 1
    client._current_server = second
    assert nats_internals.tried(client) == 2


def test_botocore_makes_the_processes_that_a_role_is_assumed_by_where_ours_are_put() -> None:
    session = botocore.session.Session()
    resolver = create_credential_resolver(session)
    [role] = [one for one in resolver.providers if isinstance(one, AssumeRoleProvider)]
    made = SimpleNamespace(load=lambda: "ours")

    botocore_internals.make_processes_by(role, lambda profile_name: made)

    builder = role._profile_provider_builder
    assert "_create_process_provider" in type(builder).__dict__
    assert made in builder.providers("default")


def test_hpack_has_the_tables_of_the_standard() -> None:
    assert len(hpack._STATIC) == 61  # RFC 7541, appendix A
    assert hpack._STATIC[0] == (b":authority", b"")
    assert hpack._STATIC[60] == (b"www-authenticate", b"")
    assert hpack.decode_huffman(bytes.fromhex("f1e3c2e5f23a6ba0ab90f4ff")) == b"www.example.com"  # C.4.1
    fields = [(b":method", b"POST"), (b"x-of", b"ours")]
    assert Decoder().decode(Encoder().encode(fields), raw=True) == fields
