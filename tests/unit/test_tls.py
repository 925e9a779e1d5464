"""TLS files: the faulty one is named, a renewed one is used without a restart."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from kine import tls, tls_file_check
from kine.config import Settings
from kine.tls import Tls
from tests.certificates import trusting, write_authority, write_pair

if TYPE_CHECKING:
    from pathlib import Path


async def serve(context: ssl.SSLContext) -> tuple[asyncio.Server, int]:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def greeting(port: int, context: ssl.SSLContext) -> tuple[bytes, str | None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return await reader.read(), connection.selected_alpn_protocol()
    finally:
        writer.close()


def test_good_files_pass(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    ca = write_authority(tmp_path, authority)

    tls_file_check.check(Settings(server_cert_file=cert, server_key_file=key, trusted_ca_file=ca, ca_file=ca))


def test_missing_file_is_named_with_its_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--ca-file: .*/absent.pem: No such file"):
        tls_file_check.check(Settings(ca_file=str(tmp_path / "absent.pem")))


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, _ = write_pair(tmp_path, authority, "one")
    _, key = write_pair(tmp_path, authority, "other")

    with pytest.raises(ValueError, match="--server-cert-file and --server-key-file are not"):
        tls_file_check.check(Settings(server_cert_file=cert, server_key_file=key))


def test_file_without_a_certificate_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing here\n")

    with pytest.raises(ValueError, match="--trusted-ca-file holds no PEM certificate"):
        tls_file_check.check(Settings(server_cert_file=cert, server_key_file=key, trusted_ca_file=str(empty)))


async def test_renewed_certificate_counts_from_the_next_connection(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, first)
    server, port = await serve(tls.server_context(Tls(cert, key), alpn=["h2"]))
    client = trusting(second)
    client.set_alpn_protocols(["h2"])
    with pytest.raises(ssl.SSLCertVerificationError):
        await greeting(port, client)

    write_pair(tmp_path, second)

    assert await greeting(port, client) == (b"hi", "h2")
    server.close()


async def test_half_written_renewal_leaves_the_old_certificate_in_use(tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    server, port = await serve(tls.server_context(Tls(cert, key)))

    (tmp_path / "server.pem").write_text("")

    assert await greeting(port, trusting(authority)) == (b"hi", None)
    server.close()


async def was_refused(port: int, context: ssl.SSLContext) -> bool:
    """A TLS 1.3 client learns of it after its own handshake, by an alert or a closed connection."""
    try:
        said, _ = await greeting(port, context)
    except (ssl.SSLError, ConnectionError):
        return True
    return said == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_without_a_certificate_is_refused_before_and_after_a_renewal(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    ca = write_authority(tmp_path, authority)
    server, port = await serve(tls.server_context(Tls(cert, key, ca)))
    client = trusting(authority)
    client.maximum_version = version
    assert await was_refused(port, client)

    write_pair(tmp_path, authority)

    assert await was_refused(port, client)
    server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_renewed_client_authority_counts(tmp_path: Path, version: ssl.TLSVersion) -> None:
    authority, renewed = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    ca = write_authority(tmp_path, authority)
    server, port = await serve(tls.server_context(Tls(cert, key, ca)))
    client = trusting(authority)
    client.maximum_version = version
    client.load_cert_chain(*write_pair(tmp_path, renewed, "client"))
    assert await was_refused(port, client)

    write_authority(tmp_path, renewed)

    assert (await greeting(port, client))[0] == b"hi"
    server.close()


def resumed(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, ssl.SSLSession]:
    """The server's response to a client that resumes a former session, and the current session."""
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection,
    ):
        said = connection.recv(10)
        assert connection.session is not None
        return said, connection.session


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_session_of_a_client_that_the_renewed_authority_did_not_sign_is_not_resumed(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    authority, renewed = trustme.CA(), trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    ca = write_authority(tmp_path, authority)
    server, port = await serve(tls.server_context(Tls(cert, key, ca)))
    client = trusting(authority)
    client.maximum_version = version
    client.load_cert_chain(*write_pair(tmp_path, authority, "client"))
    said, session = await asyncio.to_thread(resumed, port, client, None)
    assert said == b"hi"

    write_authority(tmp_path, renewed)

    try:
        said, _ = await asyncio.to_thread(resumed, port, client, session)
    except (ssl.SSLError, ConnectionError):
        said = b""
    assert said == b""
    server.close()


async def test_unusable_renewal_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    server, port = await serve(tls.server_context(Tls(cert, key)))
    (tmp_path / "server.pem").write_text("")

    for _ in range(3):
        assert await greeting(port, trusting(authority)) == (b"hi", None)

    assert [record.getMessage() for record in caplog.records] == ["renewed certificate not usable yet"]
    server.close()
