"""Validation of the TLS files, with errors that name the flag, which the TLS library's errors do not."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from kine.observe.logging import escape
from kine.tls import load_pair

if TYPE_CHECKING:
    from kine.config import Settings


def check(chosen: Settings) -> None:
    """Checks all TLS files. Raises ValueError, which names the flag and the fix."""
    server = ("server-cert-file", chosen.server_cert_file), ("server-key-file", chosen.server_key_file)
    _check(server, ("trusted-ca-file", chosen.trusted_ca_file))
    check_endpoints(chosen)


def check_endpoints(chosen: Settings) -> None:
    """Checks the TLS files of the endpoint only. Raises ValueError likewise."""
    client = ("cert-file", chosen.cert_file), ("key-file", chosen.key_file)
    _check(client, ("ca-file", chosen.ca_file))


def _check(pair: tuple[tuple[str, str], tuple[str, str]], authority: tuple[str, str]) -> None:
    for flag, path in (*pair, authority):
        _readable(flag, path)
    (flag, cert), (key_flag, key) = pair
    try:
        if cert:
            load_pair(ssl.create_default_context(), cert, key)
    except (ssl.SSLError, ValueError):
        raise ValueError(
            f"--{flag} and --{key_flag} are not a PEM certificate and its unencrypted key; "
            "check that each is the right file and that they belong together"
        ) from None
    flag, path = authority
    try:
        if path:
            ssl.create_default_context().load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError(f"--{flag} holds no PEM certificate; give the file of the CA") from None


def _readable(flag: str, path: str) -> None:
    try:
        if path:
            open(path, "rb").close()
    except OSError as error:
        raise ValueError(f"--{flag}: {escape(path)}: {error.strerror}; give a readable PEM file") from None
