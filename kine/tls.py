"""TLS files: told apart when one is wrong, and taken up anew when they are renewed on disk."""

from __future__ import annotations

import logging
import os
import ssl
from typing import TYPE_CHECKING

from kine.observe.logging import escape, fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kine.config import Settings
    from kine.transport.base import Tls

log = logging.getLogger(__name__)


def check(chosen: Settings) -> None:
    """Says which TLS flag is wrong, before a library says only that something is. Raises ValueError."""
    server = ("server-cert-file", chosen.server_cert_file), ("server-key-file", chosen.server_key_file)
    client = ("cert-file", chosen.cert_file), ("key-file", chosen.key_file)
    authorities = ("trusted-ca-file", chosen.trusted_ca_file), ("ca-file", chosen.ca_file)
    for flag, path in (*server, *client, *authorities):
        _readable(flag, path)
    for (flag, cert), (key_flag, key) in (server, client):
        try:
            if cert:
                _load_pair(ssl.create_default_context(), cert, key)
        except (ssl.SSLError, ValueError):
            raise ValueError(
                f"--{flag} and --{key_flag} are not a PEM certificate and its unencrypted key; "
                "check that each is the right file and that they belong together"
            ) from None
    for flag, authority in authorities:
        try:
            if authority:
                ssl.create_default_context().load_verify_locations(authority)
        except ssl.SSLError:
            raise ValueError(f"--{flag} holds no PEM certificate; give the file of the CA") from None


def _readable(flag: str, path: str) -> None:
    try:
        if path:
            open(path, "rb").close()
    except OSError as error:
        raise ValueError(f"--{flag}: {escape(path)}: {error.strerror}; give a readable PEM file") from None


def _load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    # Without the callback OpenSSL would ask a terminal for the password of an encrypted key.
    context.load_cert_chain(cert_file, key_file, password=lambda: b"")


def server_context(tls: Tls, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A server's context, TLS 1.2 and up. Raises OSError, ssl.SSLError.

    Renewed files count from the next handshake on, as in etcd (client/pkg/transport, TLSInfo): each
    handshake costs a `stat` of them. Files that are half written are tried again at the next one.
    """
    state = stamps(tls), _fixed_context(tls, alpn)

    def renew(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal state
        found = stamps(tls)
        if found != state[0]:
            try:
                state = found, _fixed_context(tls, alpn)
                log.info("certificate renewed", extra=fields(file=tls.cert_file))
            except (OSError, ValueError) as error:
                reason = type(error).__name__
                log.warning(
                    "renewed certificate not usable yet", extra=fields(file=tls.cert_file, error=reason)
                )
        connection.context = state[1]

    outer = _fixed_context(tls, alpn)
    outer.sni_callback = renew  # called at every handshake, with or without a server name
    return outer


def _fixed_context(tls: Tls, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, tls.cert_file, tls.key_file)
    if tls.client_ca_file:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def stamps(tls: Tls) -> list[tuple[int, int, int]]:
    """What changes whenever one of the files does."""
    found = []
    for path in (tls.cert_file, tls.key_file, tls.client_ca_file):
        try:
            status = os.stat(path)
        except OSError:  # unset, or being replaced
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return found
