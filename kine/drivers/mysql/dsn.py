"""`mysql://user:password@tcp(host:port)/database?parameters`: the form of Go's driver, and its parameters."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote

from kine.drivers.base import Options

DEFAULT_DATABASE = "kubernetes"
DEFAULT_SOCKET = "/var/run/mysqld/mysqld.sock"
DEFAULT_PORT = 3306
LOCK_TIMEOUT = 10.0  # seconds
CONNECT_TIMEOUT = 10.0

# What Go's driver does by itself, or asks for and is always so here.
_IGNORED = {
    "allowAllFiles", "allowCleartextPasswords", "allowNativePasswords", "allowOldPasswords",
    "checkConnLiveness", "clientFoundRows", "collation", "columnsWithAlias", "compress",
    "connectionAttributes", "interpolateParams", "loc", "maxAllowedPacket", "multiStatements", "parseTime",
    "rejectReadOnly", "serverPubKey", "timeTruncate", "charset", "allowFallbackToPlaintext",
}  # fmt: skip
# Statements here are written for these; a DSN must not turn them.
_OURS = {"sql_mode", "autocommit", "transaction_isolation", "tx_isolation"}
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ADDRESS = re.compile(r"(?P<protocol>[A-Za-z0-9]+)(?:\((?P<address>.*)\))?")
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
    read_timeout: float  # of one wait for the server; 0: by our own measure
    write_timeout: float
    tls: ssl.SSLContext | None
    tls_optional: bool  # encrypt if the server can
    settings: dict[str, str]


def parse(endpoint: str, options: Options) -> Dsn:
    """Raises ValueError, which never repeats the endpoint; OSError for a TLS file that cannot be read."""
    _, _, rest = endpoint.partition("://")
    flags = bool(options.ca_file or options.cert_file or options.key_file or options.skip_verify)
    if not rest:
        rest = "root@tcp(127.0.0.1)/" if flags else f"root@unix({DEFAULT_SOCKET})/"
    # From the end, as a password may hold any of these characters.
    before, slash, path = _cut_path(rest)
    if not slash:
        raise ValueError(
            "the endpoint lacks the slash before the database's name: mysql://USER:PASSWORD@tcp(HOST:PORT)/NAME"
        )
    name, _, query = path.partition("?")
    account, _, address = before.rpartition("@")
    user, _, password = account.partition(":")
    host, port, socket = _address(address)
    parameters = dict(part.partition("=")[::2] for part in query.split("&") if part)
    settings: dict[str, str] = {}
    lock_timeout = LOCK_TIMEOUT
    for key, value in parameters.items():
        if key in ("tls", "timeout", "readTimeout", "writeTimeout") or key in _IGNORED:
            continue
        plain = unquote(value)
        if not _SETTING.fullmatch(key) or key in _OURS or not _SETTING_VALUE.fullmatch(plain):
            raise ValueError(f"the endpoint's parameter {key[:40]!r} cannot be set")
        if key == "innodb_lock_wait_timeout" and plain.isdecimal():
            lock_timeout = float(plain)
        settings[key] = plain
    tls, optional = _tls(parameters.get("tls", ""), options, given=flags)
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
    return Dsn(
        user=user or "root",
        password=password,
        host=host,
        port=port,
        socket=socket,
        database=unquote(name) or DEFAULT_DATABASE,
        lock_timeout=lock_timeout,
        connect_timeout=_duration(parameters, "timeout", CONNECT_TIMEOUT),
        read_timeout=_duration(parameters, "readTimeout", 0.0),
        write_timeout=_duration(parameters, "writeTimeout", 0.0),
        tls=tls,
        tls_optional=optional,
        settings=settings,
    )


def _cut_path(rest: str) -> tuple[str, str, str]:
    """At the slash after the address, which may itself hold slashes, as may parameters."""
    closing = rest.find(")/")
    if closing >= 0:
        return rest[: closing + 1], "/", rest[closing + 2 :]
    question = rest.find("?", rest.rfind("@") + 1)
    cut = rest.rfind("/", 0, question if question >= 0 else len(rest))
    return (rest[:cut], "/", rest[cut + 1 :]) if cut >= 0 else (rest, "", "")


def _address(text: str) -> tuple[str, int, str]:
    match = _ADDRESS.fullmatch(text) if text else None
    if text and match is None:
        raise ValueError("the endpoint's address must be tcp(HOST:PORT) or unix(/PATH)")
    protocol = match["protocol"] if match else "tcp"
    address = (match["address"] or "") if match else ""
    if protocol == "unix":
        return "", 0, address or DEFAULT_SOCKET
    if protocol != "tcp":
        raise ValueError("the endpoint's address must be tcp(HOST:PORT) or unix(/PATH)")
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(DEFAULT_PORT)
    if not port.isdecimal():
        raise ValueError("the endpoint's port is not a number")
    return host.strip("[]") or "127.0.0.1", int(port), ""


def _tls(asked: str, options: Options, *, given: bool) -> tuple[ssl.SSLContext | None, bool]:
    """The flags win over the parameter, as in Go kine."""
    if given:
        context = ssl.create_default_context(cafile=options.ca_file or None)
        if options.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file or None)
        return context, False
    if asked.lower() in ("", "false", "0"):
        return None, False
    context = ssl.create_default_context()
    if asked.lower() in ("true", "1"):
        return context, False
    if asked in ("skip-verify", "preferred"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context, asked == "preferred"
    raise ValueError(
        "tls in the endpoint must be true, false, skip-verify or preferred; certificates are given by the"
        " flags --ca-file, --cert-file and --key-file"
    )


def _duration(parameters: dict[str, str], name: str, default: float) -> float:
    """Go's notation, as 1m30s."""
    text = unquote(parameters.get(name, ""))
    if not text:
        return default
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text and text != "0":
        raise ValueError(f"{name} in the endpoint must be a duration such as 5s or 500ms")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
