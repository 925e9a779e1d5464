"""mTLS: a client without a certificate of the configured CA is refused; renewed files need no restart."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme

from tests.certificates import mutual_tls_flags, write_authority
from tests.client import Client
from tests.servers.kine import TRANSPORTS, start_kine

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.process import Instance

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
WAIT = 60.0  # seconds; generous, for a busy machine
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@dataclass(slots=True)
class Guarded:
    """A server that requires client certificates, and the folder of its own."""

    instance: Instance
    folder: Path
    authority: trustme.CA

    @property
    def endpoint(self) -> tuple[str, int]:
        host, _, port = self.instance.address.rpartition(":")
        return host, int(port)

    @property
    def log(self) -> str:
        return self.instance.log.read_text()


def show(folder: Path, authority: trustme.CA) -> None:
    """Replaces the server's certificate as renewal tools do: the key first, each file atomically."""
    issued = authority.issue_cert("127.0.0.1")
    key, cert = folder / "new.key", folder / "new.pem"
    key.write_bytes(issued.private_key_pem.bytes())
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.rename(folder / "server.key")
    cert.rename(folder / "server.pem")


def client_of(guarded: Guarded, signed_by: trustme.CA, trusting: trustme.CA, timeout: float = WAIT) -> Client:
    mine = signed_by.issue_cert("client")
    credentials = grpc.ssl_channel_credentials(
        trusting.cert_pem.bytes(), mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    )
    return Client(guarded.instance.address, credentials, timeout)


Start = Callable[[trustme.CA], Guarded]


@pytest.fixture(params=TRANSPORTS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    started: list[Instance] = []

    def start(authority: trustme.CA) -> Guarded:
        show(tmp_path, authority)
        ca = write_authority(tmp_path, authority)
        flags = mutual_tls_flags(ca, str(tmp_path / "server.pem"), str(tmp_path / "server.key"))
        started.append(start_kine("memory://", request.param, tmp_path, flags=flags))
        return Guarded(started[0], tmp_path, authority)

    yield start
    for instance in started:
        assert instance.running
        assert "Traceback" not in instance.log.read_text()
        instance.kill()


def answered(guarded: Guarded, context: ssl.SSLContext) -> bytes:
    """The server's response to an HTTP/2 preface over TLS; empty if it ends the connection."""
    received = b""
    with (
        socket.create_connection(guarded.endpoint, WAIT) as plain,
        contextlib.suppress(ssl.SSLError, ConnectionError),  # TLS 1.3 reports it at the first read
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(HTTP2)
        received = client.recv(65_536)
    return received


def speaking(authority: trustme.CA, shown: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        shown.configure_cert(context)
    return context


def test_strangers_get_nothing(start: Start) -> None:
    authority = trustme.CA()
    guarded = start(authority)
    strangers = {
        "no certificate": None,
        "another CA's": trustme.CA().issue_cert("client"),
        "a CA of the same name": trustme.CA(organization_name="trustme").issue_cert("client"),
        "expired": authority.issue_cert("client", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        "not yet valid": authority.issue_cert("client", not_before=NOW + DAY, not_after=NOW + 9 * DAY),
    }

    for who, shown in strangers.items():
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = speaking(authority, shown)
            context.maximum_version = version
            assert answered(guarded, context) == b"", (who, version)
    assert answered(guarded, speaking(authority, authority.issue_cert("client"))) != b""


def test_certificate_signed_by_itself_gets_nothing(start: Start, tmp_path: Path) -> None:
    authority, itself = trustme.CA(), trustme.CA()
    guarded = start(authority)
    itself.cert_pem.write_to_path(str(tmp_path / "own.pem"))
    itself.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = speaking(authority)
        context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
        context.maximum_version = version
        assert answered(guarded, context) == b"", version


def test_who_speaks_in_the_clear_is_let_go(start: Start) -> None:
    authority = trustme.CA()
    guarded = start(authority)

    for said in (
        HTTP2,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello" * 9,
        b"\xff" * 99,
    ):
        with socket.create_connection(guarded.endpoint, WAIT) as plain:
            plain.sendall(said)
            received = b""
            with contextlib.suppress(ConnectionError):
                while more := plain.recv(65_536):
                    received += more
        assert len(received) < 100, said  # an alert of TLS's at most
        assert b"HTTP" not in received
    with client_of(guarded, authority, authority) as client:
        client.put(b"k", b"v")


def test_renewed_certificate_and_authority_count_for_new_connections(start: Start) -> None:
    old, new = trustme.CA(), trustme.CA()
    guarded = start(old)
    early = client_of(guarded, old, old)
    early.put(b"k", b"before")

    show(guarded.folder, new)
    write_authority(guarded.folder, new)

    with client_of(guarded, new, new) as client:
        assert client.get(b"k").value == b"before"  # type: ignore[union-attr]
    assert early.get(b"k").value == b"before"  # type: ignore[union-attr]
    early.close()
    assert answered(guarded, speaking(new, old.issue_cert("client"))) == b""
    assert '"certificate renewed"' in guarded.log


def test_broken_renewal_keeps_what_was_there_and_says_so_once(start: Start) -> None:
    authority = trustme.CA()
    guarded = start(authority)

    for number, broken in enumerate(("server.pem", "server.key", "ca.pem"), 1):
        good = (guarded.folder / broken).read_bytes()
        (guarded.folder / broken).write_bytes(b"-----BEGIN CERTIFICATE-----\nhalf")
        for _ in range(2):
            with client_of(guarded, authority, authority) as client:
                client.put(b"k", b"v")
        told(guarded, "renewed certificate not usable yet", number)
        (guarded.folder / broken).write_bytes(good)
        with client_of(guarded, authority, authority) as client:
            client.put(b"k", b"v")
        told(guarded, "certificate renewed", number)


def told(guarded: Guarded, what: str, times: int) -> None:
    """Waits until the message is in the log: grpcio checks the files in a separate thread."""
    deadline = time.monotonic() + WAIT
    while guarded.log.count(f'"{what}"') < times:
        assert time.monotonic() < deadline, guarded.log
        time.sleep(0.02)
    assert guarded.log.count(f'"{what}"') == times
