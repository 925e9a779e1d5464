"""`postgres://user:password@host:port/database?parameters`: what libpq takes, and what Go's pgx takes too."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from psycopg import pq

from kine.drivers.base import Options
from kine.identity.kerberos import Source, source

DEFAULT_DATABASE = "kubernetes"
LOCK_TIMEOUT = 10.0  # seconds
CONNECT_TIMEOUT = 10

# A connection that is cut without a word is noticed within some 25 seconds, unless the endpoint says else.
_LIVENESS = {
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
# pgx's own, of which only two mean something here: whether statements may be prepared.
_PGX = {
    "default_query_exec_mode", "statement_cache_capacity", "statement_cache_mode",
    "description_cache_capacity", "min_read_buffer_size", "prefer_simple_protocol",
    "pool_max_conns", "pool_min_conns", "pool_min_idle_conns", "pool_max_conn_lifetime",
    "pool_max_conn_idle_time", "pool_health_check_period", "pool_max_conn_lifetime_jitter",
}  # fmt: skip
_KERBEROS = ("krb5_keytab", "krb5_ccache")
_UNPREPARED = {"exec", "simple_protocol", "cache_describe", "describe_exec"}
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_UNITS = {"": 0.001, "us": 1e-6, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h|d)?\s*")


@dataclass(frozen=True, slots=True)
class Dsn:
    connection: dict[str, str] = field(repr=False)  # libpq's keywords
    database: str
    lock_timeout: float  # seconds; 0: wait without end
    prepare: bool  # whether statements may be prepared, which some poolers cannot do
    kerberos: Source | None = None


def parse(endpoint: str, options: Options) -> Dsn:
    """Raises ValueError, which never repeats the endpoint."""
    _, _, rest = endpoint.partition("://")
    if not rest:
        rest = "postgres:postgres@localhost/"
    authority_and_path, _, query = rest.partition("?")
    authority, _, path = authority_and_path.partition("/")
    user_part, at, hosts = authority.rpartition("@")
    connection: dict[str, str] = {}
    if at:
        user, colon, password = user_part.partition(":")
        if user:
            connection["user"] = unquote(user)
        if colon:
            connection["password"] = unquote(password)
    connection |= _hosts(hosts)
    database = unquote(path).lower() or DEFAULT_DATABASE
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    kerberos_parameters = {name: parameters.pop(name) for name in _KERBEROS if name in parameters}
    lock_timeout = _time(parameters.pop("lock_timeout", None))
    prepare = (
        parameters.get("default_query_exec_mode") not in _UNPREPARED
        and parameters.get("statement_cache_capacity") != "0"
        and parameters.get("prefer_simple_protocol") not in ("true", "1")
    )
    settings = {}
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name, value in parameters.items():
        if name in _PGX:
            continue
        if name in known:
            connection[name] = value
        elif _SETTING.fullmatch(name):
            settings[name] = value  # as in pgx: a setting of the server's, for this connection
        else:
            raise ValueError(f"the endpoint has a parameter of the impossible name {name[:20]!r}")
    database = connection.pop("dbname", database)
    if settings:
        told = " ".join(f"-c {name}={_quoted(value)}" for name, value in settings.items())
        connection["options"] = f"{connection.get('options', '')} {told}".strip()
    kerberos = _kerberos(connection, kerberos_parameters, options)
    connection = _LIVENESS | {"application_name": "kine"} | _tls(options, connection) | connection
    if options.identity_provider:
        _check_issued(connection)
    _choose_gss(connection, known, kerberos=kerberos is not None)
    return Dsn(connection, database, lock_timeout, prepare, kerberos)


def _hosts(hosts: str) -> dict[str, str]:
    names, ports = [], []
    for host in hosts.split(","):
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, ""
        if port and not port.isdecimal():
            raise ValueError(
                "the endpoint's port is not a number; a password with special characters must be"
                " percent-encoded (/ is %2F, @ is %40, : is %3A)"
            )
        names.append(unquote(name.strip("[]")))
        ports.append(port)
    found = {}
    if any(names):
        found["host"] = ",".join(names)
    if any(ports):
        found["port"] = ",".join(ports)
    return found


def _tls(options: Options, given: dict[str, str]) -> dict[str, str]:
    """The flags' files, with upstream's rule: any of them asks for the server's name to be checked."""
    tls = {}
    if options.cert_file:
        tls["sslcert"] = options.cert_file
    if options.key_file:
        tls["sslkey"] = options.key_file
    if options.ca_file and not options.skip_verify:
        tls["sslrootcert"] = options.ca_file
    if options.skip_verify:
        tls["sslmode"] = "require"
    elif any(name not in given for name in tls):
        tls["sslmode"] = "verify-full"
    return tls


def _kerberos(connection: dict[str, str], own: dict[str, str], options: Options) -> Source | None:
    if not options.identity_provider:
        asked = connection | own
        found = source(asked, os.environ)
        if found is not None:
            connection["user"] = asked["user"]
            _check_library()
        return found
    if own:
        raise ValueError(
            f"the endpoint's {next(iter(own))} and --identity-provider exclude each other: leave one out"
        )
    return None


def _check_library() -> None:
    """Raises ValueError if this libpq was built without GSSAPI. Opens no connection."""
    trial = pq.PGconn.connect_start(b"gssencmode=require host=/nonexistent")
    said = trial.get_error_message()
    trial.finish()
    if "not compiled in" in said:
        raise ValueError(
            "the endpoint asks for Kerberos, and this libpq was built without GSSAPI: install"
            " psycopg[binary], or psycopg[c] on a libpq built --with-gssapi"
        )


def _choose_gss(connection: dict[str, str], known: set[str], *, kerberos: bool) -> None:
    """Said outright, as libpq's own default depends on its build and on what lies in a cache."""
    if "PGGSSENCMODE" not in os.environ and "gssencmode" in known:
        connection.setdefault("gssencmode", "disable")  # as in Go kine, which has no such encryption
    off = not kerberos and connection.get("gssencmode") == "disable"
    if off and "PGREQUIREAUTH" not in os.environ and "require_auth" in known:
        # Else libpq would answer a server that asks for Kerberos from whatever cache there is.
        connection.setdefault("require_auth", "!gss")


_ENCRYPTED = ("require", "verify-ca", "verify-full")


def _check_issued(connection: dict[str, str]) -> None:
    """An issued password is for one user of one host, and is sent over TLS only."""
    if connection.setdefault("sslmode", "require") not in _ENCRYPTED:
        raise ValueError(
            "with --identity-provider the endpoint's sslmode must be require, verify-ca or verify-full:"
            " the token is sent as a password, so never in the clear"
        )
    host = connection.get("host", "")
    if not host or host.startswith("/") or "," in host:
        raise ValueError(
            "with --identity-provider the endpoint must name one host, as user@host:port/database"
        )
    if not connection.get("user"):
        raise ValueError("with --identity-provider the endpoint must name the user the token is for")
    connection.pop("password", None)


def _time(value: str | None) -> float:
    """PostgreSQL's notation: milliseconds, or with a unit."""
    if value is None:
        return LOCK_TIMEOUT
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError("lock_timeout in the endpoint must be a time such as 10s or 10000 (milliseconds)")
    return float(match[1]) * _UNITS[match[2] or ""]


def _quoted(value: str) -> str:
    """Within libpq's `options`, which the server takes apart at any white space."""
    return re.sub(r"([\\\s])", r"\\\1", value)
