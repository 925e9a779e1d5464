"""The endpoint `mysql://user:password@tcp(host:port)/database?parameters`, in the Go driver's format."""

from __future__ import annotations

import logging
import re
import ssl
import zoneinfo
from dataclasses import dataclass, field
from urllib.parse import unquote

from kine.drivers.base import Options
from kine.flag_values import FALSE, TRUE, host_and_port, parse_duration
from kine.tls import client_context

log = logging.getLogger(__name__)

DEFAULT_DATABASE = "kubernetes"
DEFAULT_SOCKET = "/var/run/mysqld/mysqld.sock"
DEFAULT_PORT = 3306
LOCK_TIMEOUT = 10.0  # seconds
CONNECT_TIMEOUT = 10.0

# Parameters of the Go driver that kine ignores: they are always on here, or do not affect its statements.
_IGNORED = {
    "allowAllFiles", "allowCleartextPasswords", "allowNativePasswords", "allowOldPasswords",
    "checkConnLiveness", "clientFoundRows", "columnsWithAlias", "compress", "interpolateParams",
    "multiStatements", "parseTime", "rejectReadOnly", "allowFallbackToPlaintext",
}  # fmt: skip
_READ = {
    "tls", "timeout", "readTimeout", "writeTimeout", "charset", "collation", "loc", "maxAllowedPacket",
    "timeTruncate", "serverPubKey", "connectionAttributes",
}  # fmt: skip
# Values that the Go driver acts on and PyMySQL cannot.
_UNHEEDED = {"compress": TRUE, "allowNativePasswords": FALSE}
_BOOLEANS = {
    "allowAllFiles", "allowCleartextPasswords", "allowFallbackToPlaintext", "allowNativePasswords",
    "allowOldPasswords", "checkConnLiveness", "clientFoundRows", "columnsWithAlias", "compress",
    "interpolateParams", "multiStatements", "parseTime", "rejectReadOnly",
}  # fmt: skip
# Session variables that kine's statements depend on, whatever the server's global values.
SESSION = {
    "sql_safe_updates": "0",  # 1 refuses statements without a key in their WHERE
    "sql_select_limit": "18446744073709551615",  # a lower one drops rows from every result
    "completion_type": "0",  # with others, COMMIT opens a transaction, or closes the connection
    "default_storage_engine": "InnoDB",  # other engines have no transactions
    "unique_checks": "1",  # with 0, a unique index may accept duplicates
    "sql_big_selects": "1",  # with 0, long results are refused
}
# Variables that kine sets itself: an endpoint must not change them.
_OURS = {"sql_mode", "autocommit", "transaction_isolation", "tx_isolation", *SESSION}
_SAME = {
    "sql_safe_updates": ("0", "off", "false"),
    "unique_checks": ("1", "on", "true"),
    "sql_big_selects": ("1", "on", "true"),
    "completion_type": ("0", "no_chain", "'no_chain'"),
    "default_storage_engine": ("innodb", "'innodb'"),
}
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Matched from the end, as a password may hold any of these characters. Parameters may hold a slash, which
# the Go driver misreads.
_FORM = re.compile(r"(?:(.*)@)?([A-Za-z0-9]*)(?:\(([^()]*)\))?/([^/?]*)(?:\?(.*))?", re.DOTALL)
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_NAMED = {"charset": "character set", "collation": "collation"}
_SETTING_VALUE = re.compile(r"(?:'[^'\\]*'|[A-Za-z0-9_.+-]*)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Dsn:
    user: str
    password: str = field(repr=False)
    host: str
    port: int
    socket: str  # a Unix socket's path instead of host and port
    database: str
    lock_timeout: float  # seconds
    connect_timeout: float
    read_timeout: float  # seconds for one read from the server; 0: kine's default
    write_timeout: float
    tls: ssl.SSLContext | None
    tls_optional: bool  # encrypt only if the server supports TLS
    settings: dict[str, str]
    charsets: tuple[str, ...] = ()  # the server must know one of them; kine itself uses utf8mb4
    collation: str = ""  # the server must know it
    max_packet: int = 0  # bytes; 0: the server's max_allowed_packet
    attributes: tuple[tuple[str, str], ...] = ()  # connection attributes, for the performance schema


def parse(endpoint: str, options: Options) -> Dsn:
    """The parsed endpoint.

    Raises ValueError, which never repeats the endpoint, and OSError for a TLS file that cannot be read.
    """
    _, _, rest = endpoint.partition("://")
    flags = bool(options.ca_file or options.cert_file or options.key_file)  # as in Go kine
    if not rest:
        rest = "root@tcp(127.0.0.1)/" if flags else f"root@unix({DEFAULT_SOCKET})/"
    account, protocol, written, name, query = _parts(rest)
    user, _, password = account.partition(":")
    host, port, socket = _address(protocol, written)
    parameters = dict(part.partition("=")[::2] for part in query.split("&") if part)
    settings: dict[str, str] = {}
    lock_timeout = LOCK_TIMEOUT
    for key, value in parameters.items():
        if key in _BOOLEANS and value not in TRUE | FALSE:
            raise ValueError(f"the endpoint's parameter {key!r} must be true or false")
        if value in _UNHEEDED.get(key, ()):
            log.warning("%s=%s in the endpoint has no effect", key, value)
        if key in _READ or key in _IGNORED:
            continue
        plain = unquote(value)
        if key in SESSION and plain.lower() in _SAME.get(key, ()):
            continue
        if not _SETTING.fullmatch(key) or key in _OURS or not _SETTING_VALUE.fullmatch(plain):
            raise ValueError(f"the endpoint's parameter {key[:40]!r} cannot be set")
        if key == "innodb_lock_wait_timeout" and plain.isdecimal():
            lock_timeout = float(plain)
        settings[key] = plain
    charsets, collation = _charset(parameters)
    _check_values(parameters)
    tls, optional = _tls(parameters.get("tls", ""), options, given=flags)
    optional = optional or (tls is not None and parameters.get("allowFallbackToPlaintext") in TRUE)
    if options.identity_provider:
        if tls is None or optional:
            raise ValueError(
                "with --identity-provider the connection must use TLS: add tls=true to the endpoint, or give"
                " --ca-file; the token is sent as a password, so never in the clear"
            )
        if socket or not user:
            raise ValueError(
                "with --identity-provider the endpoint must name user and host: mysql://USER@tcp(HOST:PORT)/NAME"
            )
        if tls.verify_mode is ssl.CERT_NONE:
            log.warning(
                "%s: the database token is sent to a server whose name and certificate are not verified;"
                " give --ca-file instead",
                "--skip-verify" if options.skip_verify else "tls=skip-verify",
            )
    return Dsn(
        user=user or "root",
        password=password,
        host=host,
        port=port,
        socket=socket,
        database=unquote(name) or DEFAULT_DATABASE,
        lock_timeout=lock_timeout,
        connect_timeout=_duration(parameters, "timeout", CONNECT_TIMEOUT) or CONNECT_TIMEOUT,
        read_timeout=_duration(parameters, "readTimeout", 0.0),
        write_timeout=_duration(parameters, "writeTimeout", 0.0),
        tls=tls,
        tls_optional=optional,
        settings=settings,
        charsets=charsets,
        collation=collation,
        max_packet=max(0, int(parameters.get("maxAllowedPacket") or 0)),
        attributes=_attributes(unquote(parameters.get("connectionAttributes", ""))),
    )


def _charset(parameters: dict[str, str]) -> tuple[tuple[str, ...], str]:
    """The character sets and the collation. Only the server knows whether they exist."""
    charsets = tuple(filter(None, unquote(parameters.get("charset", "")).split(",")))
    collation = unquote(parameters.get("collation", ""))
    for name, values in (("charset", charsets), ("collation", (collation,) if collation else ())):
        if not all(map(_SETTING.fullmatch, values)):
            raise ValueError(f"the endpoint's parameter {name!r} is no name of a {_NAMED[name]}")
    return charsets, collation


def _check_values(parameters: dict[str, str]) -> None:
    """Raises ValueError for values that the Go driver refuses before it connects."""
    if (packet := parameters.get("maxAllowedPacket")) is not None and not _INTEGER.fullmatch(packet):
        raise ValueError(
            "the endpoint's parameter 'maxAllowedPacket' must be a number of bytes; 0: the server's"
        )
    if "serverPubKey" in parameters:
        raise ValueError(
            "the endpoint's parameter 'serverPubKey' names a key that a Go program has registered, and kine"
            " has none: leave it out; over TLS no such key is needed"
        )
    if truncated := unquote(parameters.get("timeTruncate", "")):
        try:
            parse_duration(truncated)
        except ValueError:
            raise ValueError("timeTruncate in the endpoint must be a duration such as 1ms") from None
    location = unquote(parameters.get("loc", ""))
    if location not in ("", "UTC", "Local") and not _is_time_zone(location):
        raise ValueError(
            "the endpoint's parameter 'loc' names no time zone; leave it out, or write it like UTC"
        )


def _is_time_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # not found is a KeyError
        return not zoneinfo.available_timezones()  # without a database of zones, accept any: it has no effect
    return True


def _attributes(written: str) -> tuple[tuple[str, str], ...]:
    pairs = (part.partition(":")[::2] for part in written.split(","))
    return tuple((name.strip(), value.strip()) for name, value in pairs if name.strip() and value.strip())


def _parts(rest: str) -> tuple[str, str, str, str, str]:
    """Account, protocol, address, database and parameters."""
    if match := _FORM.fullmatch(rest):
        account, protocol, address, name, query = match.groups(default="")
        return account, protocol or "tcp", address, name, query
    if "/" not in rest.rpartition("@")[2]:
        raise ValueError(
            "the endpoint lacks the slash before the database's name: mysql://USER:PASSWORD@tcp(HOST:PORT)/NAME"
        )
    raise ValueError("the endpoint's address must be tcp(HOST:PORT) or unix(/PATH)")


def _address(protocol: str, address: str) -> tuple[str, int, str]:
    if protocol == "unix":
        return "", 0, address or DEFAULT_SOCKET
    if protocol not in ("tcp", "tcp4", "tcp6"):
        raise ValueError("the endpoint's address must be tcp(HOST:PORT) or unix(/PATH)")
    host, port = host_and_port(address, DEFAULT_PORT)
    return host or "127.0.0.1", port, ""


def _tls(asked: str, options: Options, *, given: bool) -> tuple[ssl.SSLContext | None, bool]:
    """The TLS context, and whether TLS is optional.

    The flags take precedence over the parameter `tls`, as in Go kine, but skip-verify and preferred disable
    verification.
    """
    asked = "true" if asked in TRUE else "false" if asked in FALSE else asked.lower()
    if asked not in ("", "true", "false", "skip-verify", "preferred"):
        raise ValueError(
            "tls in the endpoint must be true, false, skip-verify or preferred; certificates are given by the"
            " flags --ca-file, --cert-file and --key-file"
        )
    if not given and asked in ("", "false"):
        return None, False
    context = client_context(options.ca_file)
    if options.skip_verify or asked in ("skip-verify", "preferred"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert_file:
        context.load_cert_chain(options.cert_file, options.key_file or None)
    return context, asked == "preferred"


def _duration(parameters: dict[str, str], name: str, default: float) -> float:
    """Seconds, of a duration in Go's notation, as 1m30s."""
    text = unquote(parameters.get(name, ""))
    if not text:
        return default
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text and text != "0":
        raise ValueError(f"{name} in the endpoint must be a duration such as 5s or 500ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
