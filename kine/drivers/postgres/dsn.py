"""The endpoint `postgres://user:password@host:port/database?parameters`, parsed as by libpq and Go's pgx."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from psycopg import pq

from kine.drivers.base import Options
from kine.flag_values import BAD_PORT, host_and_port
from kine.identity.kerberos import CredentialSource, source
from kine.tls import system_authorities

log = logging.getLogger(__name__)

DEFAULT_DATABASE = "kubernetes"
LOCK_TIMEOUT = 10.0  # seconds
CONNECT_TIMEOUT = 10
ENDLESS_TIMEOUT = 120  # seconds, for connect_timeout=0

# Detects a silently dropped connection within some 25 seconds; the endpoint's parameters take precedence.
_LIVENESS = {
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
# Parameters of pgx only. Those that affect kine are the ones that forbid preparing statements: see `parse`.
_PGX = {
    "default_query_exec_mode", "statement_cache_capacity", "statement_cache_mode",
    "description_cache_capacity", "min_read_buffer_size", "prefer_simple_protocol",
}  # fmt: skip
# Parameters of pgx's pool, and kine's flags instead. Go kine has no such pool: its server refuses them.
_POOL = {
    "pool_max_conns": "--datastore-max-open-connections",
    "pool_min_conns": "--datastore-max-idle-connections",
    "pool_min_idle_conns": "--datastore-max-idle-connections",
    "pool_max_conn_lifetime": "--datastore-connection-max-lifetime",
    "pool_max_conn_lifetime_jitter": "--datastore-connection-max-lifetime",
    "pool_max_conn_idle_time": "--datastore-connection-max-idle-time",
    "pool_health_check_period": "--datastore-connection-max-idle-time",
}
_CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "primary", "prefer-standby", "read-only", "standby"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "sslnegotiation": ("postgres", "direct"),
    "sslcertmode": ("disable", "allow", "require"),
}
# The valid values of pgx's parameters.
_PGX_VALUES = {
    "default_query_exec_mode": re.compile(
        "cache_statement|cache_describe|describe_exec|exec|simple_protocol"
    ),
    "statement_cache_capacity": re.compile("[-+]?[0-9]+"),
    "description_cache_capacity": re.compile("[-+]?[0-9]+"),
}
_ENCODE = "; a password with special characters must be percent-encoded (/ is %2F, @ is %40, : is %3A)"
_UTF8 = {"utf8", "unicode"}
_KERBEROS = ("krb5_keytab", "krb5_ccache", "krbspn")
NO_KERBEROS = "!gss"  # require_auth
_UNPREPARED = {"exec", "simple_protocol", "cache_describe", "describe_exec"}
_HOME_AUTHORITIES = Path("~/.postgresql/root.crt")  # the default of libpq and pgx
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_UNITS = {"": 0.001, "us": 1e-6, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|min|h|d)?\s*")


@dataclass(frozen=True, slots=True)
class Dsn:
    connection: dict[str, str] = field(repr=False)  # libpq's keywords
    database: str
    lock_timeout: float  # seconds; 0: no limit
    prepare: bool  # whether statements may be prepared, which some poolers do not support
    kerberos: CredentialSource | None = None
    may_use_password: bool = False  # whether to try the password before Kerberos
    written_database: str = ""  # the database as the endpoint spells it, if `database` differs
    encoding: str = ""  # the endpoint's client_encoding, if it is not UTF-8

    @property
    def shown(self) -> str:
        """The database's name for messages."""
        if not self.written_database:
            return self.database
        return f"{self.database} ({self.written_database} in the endpoint; in lower case, as Go kine has it)"


def parse(endpoint: str, options: Options) -> Dsn:
    """The parsed endpoint. Raises ValueError, which never repeats the endpoint."""
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
    ambient = _ambient()
    # The first of a repeated parameter takes precedence, as in Go kine.
    parameters = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    _check_parameters(parameters)
    written = unquote(path)
    database = written.lower() or DEFAULT_DATABASE
    kerberos_parameters = {name: parameters.pop(name) for name in _KERBEROS if name in parameters}
    lock_timeout = _time(parameters.pop("lock_timeout", None))
    prepare = (
        parameters.get("default_query_exec_mode") not in _UNPREPARED
        and parameters.get("statement_cache_capacity") != "0"
        and parameters.get("prefer_simple_protocol") not in ("true", "1")
    )
    settings = {}
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    encoding = parameters.pop("client_encoding", "")
    if re.sub("[^a-z0-9]", "", encoding.lower()) in _UTF8:
        encoding = ""
    for name, value in parameters.items():
        if name in _PGX:
            continue
        if name in known:
            connection[name] = value
        elif _SETTING.fullmatch(name):
            settings[name] = value  # as in pgx: a server setting for this session
        else:
            raise ValueError(f"the endpoint has a parameter of the impossible name {name[:20]!r}")
    database = connection.pop("dbname", database)
    _choose_server(connection)
    if settings:
        told = " ".join(f"-c {name}={_quoted(value)}" for name, value in settings.items())
        connection["options"] = f"{connection.get('options') or ambient.get('options', '')} {told}".strip()
    if options.identity_provider or kerberos_parameters or os.environ.get("KRB5_KTNAME"):
        # Tickets and tokens are issued for one server, the one that libpq will connect to.
        found = {name: ambient[name] for name in ("host", "port", "user") if name in ambient}
        connection = found | connection
        connection.setdefault("port", "5432")
    kerberos = _kerberos(connection, kerberos_parameters, options)
    defaults = _LIVENESS | {"application_name": "kine"}
    defaults = {name: ambient.get(name, value) for name, value in defaults.items()}
    connection = defaults | _tls(options, connection) | connection
    if options.identity_provider:
        _check_issued(connection, options)
    _check_tls(connection)
    _choose_gss(connection, known, kerberos=kerberos is not None)
    if database != written.lower() or database == written:
        written = ""
    a_password = connection.get("password") or ambient.get("password")
    may_use_password = (
        kerberos is not None
        and bool(a_password)
        and connection.get("gssencmode") == "disable"
        and "require_auth" in known
        and not (connection.get("require_auth") or ambient.get("require_auth"))
    )
    return Dsn(connection, database, lock_timeout, prepare, kerberos, may_use_password, written, encoding)


def _ambient() -> dict[str, str]:
    """The connection parameters that libpq's environment variables set."""
    return {
        option.keyword.decode(): os.environ[option.envvar.decode()]
        for option in pq.Conninfo.get_defaults()
        if option.envvar and os.environ.get(option.envvar.decode())
    }


def _hosts(hosts: str) -> dict[str, str]:
    names, ports = [], []
    for host in hosts.split(","):
        try:
            name, port = host_and_port(host, 0)
        except ValueError as error:
            raise ValueError(f"{error}{_ENCODE}") from None
        names.append(unquote(name))
        ports.append(str(port or ""))
    found = {}
    if any(names):
        found["host"] = ",".join(names)
    if any(ports):
        found["port"] = ",".join(ports)
    return found


def _check_port(port: str) -> None:
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(BAD_PORT)


def _check_parameters(parameters: dict[str, str]) -> None:
    """Renames pgx's parameters to libpq's, and raises ValueError for a name or value that is invalid."""
    for name, flag in _POOL.items():
        if name in parameters:
            raise ValueError(f"the endpoint's parameter {name!r} means nothing to kine; use the flag {flag}")
    if "database" in parameters:
        parameters.setdefault("dbname", parameters.pop("database"))
    if (ssl := parameters.pop("ssl", None)) is not None:
        if ssl != "true":
            raise ValueError("the endpoint's parameter 'ssl' can only be true; use sslmode")
        parameters.setdefault("sslmode", "require")
    for name, values in _CHOICES.items():
        if parameters.get(name, values[0]) not in values:
            raise ValueError(f"the endpoint's parameter {name!r} must be one of {', '.join(values)}")
    for name, form in _PGX_VALUES.items():
        if name in parameters and not form.fullmatch(parameters[name]):
            known = form.pattern.replace("|", ", ") if "|" in form.pattern else "a whole number"
            raise ValueError(f"the endpoint's parameter {name!r} must be {known}")
    timeout = parameters.get("connect_timeout")
    if timeout is not None and not timeout.isdecimal():
        raise ValueError("the endpoint's parameter 'connect_timeout' must be a whole number of seconds")
    if timeout == "0":  # no limit in pgx; but then packets dropped by the network block kine for ever
        parameters["connect_timeout"] = str(ENDLESS_TIMEOUT)
    for port in parameters.get("port", "").split(","):
        _check_port(port)


def _choose_server(connection: dict[str, str]) -> None:
    """Selects the host that takes writes, where pgx might take another one."""
    wanted = connection.get("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS", "any"))
    if wanted in ("read-only", "standby"):
        raise ValueError(
            f"target_session_attrs={wanted} asks for a server that takes no writes, and kine writes:"
            " use read-write, or leave it out"
        )
    if wanted in ("any", "prefer-standby"):
        several = "," in connection.get("host", "")
        connection["target_session_attrs"] = "read-write" if several else "any"


def _check_tls(connection: dict[str, str]) -> None:
    """Applies pgx's rules for TLS parameters, and checks that the files are readable. Raises ValueError."""
    if connection.get("sslrootcert") == "system":
        connection["sslmode"] = "verify-full"
        connection["sslrootcert"] = _system_authorities()
    mode = connection.get("sslmode") or os.environ.get("PGSSLMODE", "")
    given = connection.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if mode in ("verify-ca", "verify-full") and not given and not _HOME_AUTHORITIES.expanduser().exists():
        connection["sslrootcert"] = _system_authorities()
    if bool(connection.get("sslcert")) != bool(connection.get("sslkey")):
        raise ValueError("the endpoint's sslcert and sslkey belong together: give both, or neither")
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if path := connection.get(name):
            try:
                open(path, "rb").close()
            except OSError as error:
                raise ValueError(
                    f"{name} in the endpoint: {path}: {error.strerror}; give a readable PEM file"
                ) from None


def _system_authorities() -> str:
    if found := system_authorities():
        return found
    raise ValueError(
        "sslmode=verify-full needs the CA that signed the server's certificate, and this system has no CAs:"
        " give --ca-file, or sslrootcert in the endpoint"
    )


def _tls(options: Options, given: dict[str, str]) -> dict[str, str]:
    """The TLS parameters of the flags. As in Go kine, any of the files implies sslmode=verify-full."""
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


def _kerberos(connection: dict[str, str], own: dict[str, str], options: Options) -> CredentialSource | None:
    if not options.identity_provider:
        asked = connection | own
        found = source(asked, os.environ)
        if found is not None:
            connection["user"] = asked["user"]
            connection["krbsrvname"] = found.service  # libpq may read an empty one differently
            _check_library()
        return found
    if asking := [name for name in own if name != "krbspn"]:
        raise ValueError(
            f"the endpoint's {asking[0]} and --identity-provider exclude each other: leave one out"
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
    """Sets gssencmode and require_auth, whose defaults depend on libpq's build and the credential cache."""
    if "PGGSSENCMODE" not in os.environ and "gssencmode" in known:
        connection.setdefault("gssencmode", "disable")  # as in Go kine, which has no such encryption
    off = not kerberos and connection.get("gssencmode") == "disable"
    if off and "PGREQUIREAUTH" not in os.environ and "require_auth" in known:
        # Otherwise libpq answers a server that asks for Kerberos with any ticket in the default cache.
        connection.setdefault("require_auth", NO_KERBEROS)


_ENCRYPTED = ("require", "verify-ca", "verify-full")


def _check_issued(connection: dict[str, str], options: Options) -> None:
    """Checks that an issued password can only reach the host it was issued for. Raises ValueError.

    The endpoint must name one host and one user, and by default the server must prove its name
    (sslmode=verify-full). Only an explicit sslmode or --skip-verify weakens that, no environment variable.
    """
    if connection.setdefault("sslmode", "verify-full") not in _ENCRYPTED:
        raise ValueError(
            "with --identity-provider the endpoint's sslmode must be require, verify-ca or verify-full:"
            " the token is sent as a password, so never in the clear"
        )
    if connection["sslmode"] != "verify-full":
        asked = "--skip-verify" if options.skip_verify else f"sslmode={connection['sslmode']}"
        log.warning(
            "%s: the database token is sent to a server whose name%s is not verified; use verify-full",
            asked,
            "" if connection["sslmode"] == "verify-ca" else " and certificate",
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
    """Seconds, of a time in PostgreSQL's notation: milliseconds, or a number with a unit."""
    if value is None:
        return LOCK_TIMEOUT
    match = _TIME.fullmatch(value)
    if match is None:
        raise ValueError("lock_timeout in the endpoint must be a time such as 10s or 10000 (milliseconds)")
    return float(match[1]) * _UNITS[match[2] or ""]


def _quoted(value: str) -> str:
    """The value escaped for libpq's `options`, which the server splits at white space."""
    return re.sub(r"([\\\s])", r"\\\1", value)
