"""TLS certificates for tests: a private CA and the certificates it signed, written as PEM files."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


def write_pair(folder: Path, authority: trustme.CA, name: str = "server") -> tuple[str, str]:
    """Writes a certificate and key for 127.0.0.1 and localhost."""
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(cert), str(key)


def write_authority(folder: Path, authority: trustme.CA, name: str = "ca") -> str:
    path = folder / f"{name}.pem"
    path.write_bytes(authority.cert_pem.bytes())
    return str(path)


def mutual_tls_flags(ca: str, cert: str, key: str) -> tuple[str, ...]:
    """Flags of a server with this certificate, which accepts only clients with one of the CA."""
    return f"--server-cert-file={cert}", f"--server-key-file={key}", f"--trusted-ca-file={ca}"


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's TLS context that trusts only this CA."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(folder: Path, *names: str) -> ssl.SSLContext:
    """A server's TLS context for 127.0.0.1 and these names; its CA is `ca.pem` in the folder."""
    authority = trustme.CA()
    write_authority(folder, authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", *names).configure_cert(context)
    return context
