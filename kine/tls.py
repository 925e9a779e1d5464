"""TLS contexts from certificate files, reloaded when the files are renewed on disk."""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kine.observe.logging import fields

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

Stamps = list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a TLS server. With `client_ca_file`, clients must present a certificate signed by it.

    With `certificate_optional`, clients may connect without one; a certificate that is presented is verified.
    """

    cert_file: str
    key_file: str
    client_ca_file: str = ""
    certificate_optional: bool = False


# The distributions' files of trusted CAs (Go, crypto/x509, root_linux.go).
_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_authorities() -> str:
    """The file of the CAs that this system trusts; empty if there is none.

    Libraries that bundle OpenSSL look for it at the path of their build machine.
    """
    chosen = (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_AUTHORITIES)
    return next((path for path in chosen if path and os.path.isfile(path)), "")


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """A context for a database connection: trusts the CAs of the file, or the system's, as Go does.

    Raises OSError, ssl.SSLError.
    """
    context = ssl.create_default_context(cafile=ca_file or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 refuses CAs that Go and older ones accept
    if not ca_file and ssl.get_default_verify_paths().cafile is None and (found := system_authorities()):
        context.load_verify_locations(found)
    return context


def load_pair(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    # Without the callback OpenSSL would ask a terminal for the password of an encrypted key.
    context.load_cert_chain(cert_file, key_file, password=lambda: b"")


def server_context(tls: Tls, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A server context for TLS 1.2 and up that reloads renewed files. Raises OSError, ssl.SSLError.

    Renewed files are used from the next handshake on, as in etcd (client/pkg/transport, TLSInfo); each
    handshake costs a `stat` of each file. Half-written files are tried again at the next handshake.
    """
    return _Renewing(tls, alpn)


class _Renewing(ssl.SSLContext):
    """Wraps each connection with a context of the current files.

    Each state of the files gets a new context. The old one takes its resumable sessions with it, and with
    them the clients that a renewed CA no longer accepts.
    """

    _tls: Tls
    _alpn: Sequence[str]
    _stamps: Stamps
    _unusable: Stamps
    _current: ssl.SSLContext

    def __new__(cls, tls: Tls, alpn: Sequence[str]) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._tls, self._alpn = tls, alpn
        self._stamps, self._unusable = stamps(tls), []
        self._current = fixed_context(tls, alpn)
        return self

    def wrap_bio(  # what asyncio and uvloop call
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        self._renew()
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def _renew(self) -> None:
        found = stamps(self._tls)
        if found == self._stamps:
            return
        try:
            self._current, self._stamps = fixed_context(self._tls, self._alpn), found
            log.info("certificate renewed", extra=fields(file=self._tls.cert_file))
        except (OSError, ValueError) as error:
            if found != self._unusable:  # logged once, not at each handshake, which any peer can start
                self._unusable = found
                tell_unusable(self._tls, error)


def tell_unusable(tls: Tls, error: Exception) -> None:
    reason = type(error).__name__
    log.warning("renewed certificate not usable yet", extra=fields(file=tls.cert_file, error=reason))


def fixed_context(tls: Tls, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """A context of the files as they are now. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # TLS 1.2: costs the server far more (CVE-2011-1473)
    load_pair(context, tls.cert_file, tls.key_file)
    if tls.client_ca_file:
        context.load_verify_locations(tls.client_ca_file)
        context.verify_mode = ssl.CERT_OPTIONAL if tls.certificate_optional else ssl.CERT_REQUIRED
        # No session tickets: they would replace a certificate that may have expired meanwhile.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def stamps(tls: Tls) -> Stamps:
    """Modification time, inode and size of each file: they change whenever a file does."""
    found = []
    for path in (tls.cert_file, tls.key_file, tls.client_ca_file):
        try:
            status = os.stat(path)
        except OSError:  # unset, or being replaced
            found.append((0, 0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
    return found
