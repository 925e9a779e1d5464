"""Settings: every flag of the command line, with its `KINE_*` variable, default, help and validation.

A flag is declared once, as a field of `Settings`; the command line, the documentation's table and the
tests all read `FLAGS`. Names, defaults and meanings are those of Go kine where it has the flag.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from kine import identity
from kine.address import Address
from kine.drivers import NO_T4
from kine.drivers.base import PATIENCE, Options
from kine.flag_values import (
    address,
    address_or_off,
    cache_size,
    choice,
    connections,
    count,
    duration,
    etcd_version,
    file_path,
    idle_limit,
    limit,
    positive_duration,
    queue_size,
    size,
    switch,
    text,
)
from kine.tls import Tls
from kine.transport.base import GRPC_OVERHEAD_BYTES, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

MAX_MESSAGE_BYTES = 2**31 - 1  # protobuf's limit for one message
ANY_HOST = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - to be recognised


# Go kine's flags for its t4 store, by name; the rest of its S3 settings are AWS's own variables.
T4_FLAGS = (
    "peer-bind-address", "peer-advertise-address", "s3-bucket", "s3-folder", "s3-endpoint", "s3-region",
    "s3-access-key", "s3-secret-key", "s3-session-token", "s3-profile", "s3-ca-bundle",
)  # fmt: skip
_T4_VARIABLES = tuple("KINE_" + name.upper().replace("-", "_") for name in T4_FLAGS[:5])


class SettingError(ValueError):
    """A setting that cannot be used: one line that names the flag, the reason and the fix."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag of the command line, as `--help` shows it."""

    name: str  # without dashes: compact-interval
    group: str
    default: str  # as written on the command line
    help: str
    parse: Callable[[str], Any]  # raises ValueError with reason and fix

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return "KINE_" + self.field.upper()

    @property
    def is_switch(self) -> bool:
        return self.parse is switch

    @property
    def placeholder(self) -> str:
        """The placeholder for the value in `--help`."""
        if self.is_switch:
            return "[=true|false]"
        meant = self.parse(self.default)
        if isinstance(meant, int):
            return "SIZE" if self.name.endswith("bytes") else "NUMBER"
        last = self.name.rpartition("-")[2]
        known = {"address": "ADDRESS", "file": "FILE", "endpoint": "URL", "version": "VERSION"}
        return "DURATION" if isinstance(meant, float) else known.get(last, "NAME")


def _flag(group: str, default: str, parse: Callable[[str], T], about: str, *, shown: bool = True) -> T:
    return field(
        default_factory=lambda: parse(default),
        metadata={"group": group, "default": default, "parse": parse, "help": about},
        repr=shown,
    )


SERVE = "Clients"
STORE = "Database"
KEEP = "Compaction and watches"
SEE = "Logs and metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's settings. Durations are in seconds, sizes in bytes; no file is opened here."""

    listen_address: Address = _flag(  # noqa: RUF009 - a field, as its siblings
        SERVE, "0.0.0.0:2379", address, "Serve etcd clients here: HOST:PORT, or unix://PATH (mode 0600)."
    )
    server_cert_file: str = _flag(SERVE, "", file_path, "Certificate (PEM) shown to clients. Turns TLS on.")
    server_key_file: str = _flag(SERVE, "", file_path, "Private key (PEM) of --server-cert-file.")
    trusted_ca_file: str = _flag(
        SERVE, "", file_path, "Clients must present a certificate signed by one of these CAs (PEM)."
    )
    transport: str = _flag(SERVE, "http2", choice("http2", "grpcio"), "gRPC implementation: http2 or grpcio.")
    workers: int = _flag(
        SERVE,
        "1",
        count(1, 64),
        "Server processes that share the address and the database, for machines with cores to spare.",
    )
    max_request_bytes: int = _flag(
        SERVE,
        "1572864",
        size(at_least=1, at_most=MAX_MESSAGE_BYTES - GRPC_OVERHEAD_BYTES),
        "Largest request accepted, as etcd's flag of this name. 4MiB works too.",
    )
    max_connections: int = _flag(
        SERVE,
        "auto",
        connections,
        "Clients' connections at most; beyond them, the longest idle one is closed, or new ones are refused. "
        "auto: 10000, or what the limit of open files leaves.",
    )
    max_queued_bytes: int = _flag(
        SERVE,
        "auto",
        queue_size,
        "Memory for answers that clients have not read yet, a quarter of it for one connection; clients that "
        "read none are disconnected. As much again for requests, and for open streams and watches. auto: an "
        "eighth of the machine's or cgroup's, from 32MiB to 1GiB.",
    )
    max_watches_per_connection: int = _flag(
        SERVE, "100000", count(1), "Watches that one connection may have open, over all its Watch streams."
    )
    max_leases: int = _flag(
        SERVE,
        "50000",
        limit,
        "Leases at most; a grant beyond them fails with ResourceExhausted. 0 or less: no limit, as in etcd.",
    )
    emulated_etcd_version: str = _flag(
        SERVE,
        "3.6.11",
        etcd_version,
        "etcd version reported to clients; 3.5.13 and up promises watch progress.",
    )

    # May contain a password: not in the repr.
    endpoint: str = _flag(
        STORE,
        "",
        text,
        "The database, as a URL such as sqlite:///data/kine.db. Empty: SQLite in ./db/state.db.",
        shown=False,
    )
    identity_provider: str = _flag(
        STORE,
        "",
        choice("", *identity.MODULES),
        "Source of the database password: aws signs RDS IAM tokens. Empty: the endpoint.",
    )
    identity_timeout: float = _flag(
        STORE,
        "15s",
        positive_duration,
        "Longest wait for AWS credentials or Kerberos tickets.",
    )
    ca_file: str = _flag(STORE, "", file_path, "CA (PEM) that signed the database server's certificate.")
    cert_file: str = _flag(STORE, "", file_path, "Certificate (PEM) shown to the database server.")
    key_file: str = _flag(STORE, "", file_path, "Private key (PEM) of --cert-file.")
    skip_verify: bool = _flag(STORE, "false", switch, "Do not check the database server's certificate.")
    datastore_max_idle_connections: int = _flag(
        STORE,
        "20",
        idle_limit(20),
        "Idle database connections kept. 0: the default; negative: none but PostgreSQL's two shared ones.",
    )
    datastore_max_open_connections: int = _flag(
        STORE, "0", limit, "Open database connections at most. 0 or less: no limit, on MySQL 32."
    )
    datastore_connection_max_lifetime: float = _flag(
        STORE, "0", duration, "Replace a database connection after this long. 0 or less: never."
    )
    datastore_connection_max_idle_time: float = _flag(
        STORE, "2m", duration, "Close a database connection idle for this long. 0 or less: never."
    )
    datastore_poll_interval: float = _flag(
        STORE,
        "1s",
        positive_duration,
        "Longest pause between looks for other instances' commits, which kine shortens to 250ms or less.",
    )
    value_cache_bytes: int = _flag(
        STORE,
        "auto",
        cache_size,
        "Memory for values and long lists, such as 512MiB. auto: a quarter of the machine's or cgroup's, "
        "at most 4GiB.",
    )

    compact_interval: float = _flag(
        KEEP,
        "0",
        duration,
        "Interval between automatic compactions. 0 or less: off, the API server asks for them.",
    )
    compact_interval_jitter: int = _flag(
        KEEP, "0", count(0, 99), "Vary --compact-interval at random by up to this many percent, 0 to 99."
    )
    compact_timeout: float = _flag(
        KEEP, "5s", positive_duration, "Longest time one compaction batch may take."
    )
    compact_min_retain: int = _flag(
        KEEP, "1000", count(0), "Newest revisions that a compaction keeps, clients' own included."
    )
    compact_batch_size: int = _flag(
        KEEP, "1000", count(100), "Revisions compacted in one transaction, at least 100."
    )
    poll_batch_size: int = _flag(
        KEEP, "500", count(1), "Revisions read at once from other instances' writes."
    )
    watch_progress_notify_interval: float = _flag(
        KEEP, "5s", positive_duration, "Interval between progress notices to watchers that asked for them."
    )

    log_format: str = _flag(SEE, "plain", choice("plain", "json"), "Log lines on stderr as plain or json.")
    debug: bool = _flag(SEE, "false", switch, "Log in detail.")
    slow_sql_threshold: float = _flag(
        SEE, "1s", duration, "Log SQL that takes longer, as info. 0 or less: off."
    )
    slow_sql_warning_threshold: float = _flag(
        SEE, "5s", duration, "Of the SQL logged, what takes longer is a warning. 0 or less: all of it."
    )
    metrics_bind_address: Address | None = _flag(  # noqa: RUF009
        SEE,
        ":8080",
        address_or_off,
        "Serve /metrics, /healthz, /livez and /readyz here: HOST:PORT or :PORT. 0: off.",
    )
    metrics_ignore_tls_config: bool = _flag(
        SEE, "false", switch, "Serve metrics in the clear even when --server-cert-file is set."
    )
    metrics_enable_profiling: bool = _flag(
        SEE,
        "false",
        switch,
        "Serve profiles of the running server at /debug/pprof/ on the metrics address; over TLS with "
        "--trusted-ca-file, to clients with a certificate only.",
    )

    patience: float = PATIENCE  # not a flag: commands set 0, to fail at once without the database

    def __post_init__(self) -> None:
        if bool(self.server_cert_file) != bool(self.server_key_file):
            raise SettingError(
                "--server-cert-file and --server-key-file belong together: set both, or neither"
            )
        if self.trusted_ca_file and not self.server_cert_file:
            raise SettingError(
                "--trusted-ca-file checks clients over TLS, which is off: "
                "set --server-cert-file and --server-key-file"
            )
        if bool(self.cert_file) != bool(self.key_file):
            raise SettingError("--cert-file and --key-file belong together: set both, or neither")
        if self.workers > 1 and self.transport != "http2":
            raise SettingError("--workers needs --transport http2, the default: leave one of them out")

    def _share(self, total: int) -> int:
        """One worker's share of a limit; 0, which means no limit or none at all, stays 0."""
        return max(1, total // self.workers) if total else 0

    def driver_options(self) -> Options:
        return Options(
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            skip_verify=self.skip_verify,
            identity_provider=self.identity_provider,
            identity_timeout=self.identity_timeout,
            max_idle_connections=self._share(self.datastore_max_idle_connections),
            max_open_connections=self._share(self.datastore_max_open_connections),
            connection_max_lifetime=self.datastore_connection_max_lifetime,
            connection_max_idle_time=self.datastore_connection_max_idle_time,
            slow_sql_threshold=self.slow_sql_threshold,
            slow_sql_warning_threshold=self.slow_sql_warning_threshold,
            compact_timeout=self.compact_timeout,
            max_request_bytes=self.max_request_bytes,
            poll_interval=self.datastore_poll_interval,
            patience=self.patience,
        )

    def tls(self) -> Tls | None:
        """TLS for clients; None: without TLS."""
        if not self.server_cert_file:
            return None
        return Tls(self.server_cert_file, self.server_key_file, self.trusted_ca_file)

    def client_scheme(self) -> str:
        """The scheme of client URLs: http, https, unix or unixs."""
        return ("unix" if self.listen_address.path else "http") + ("s" if self.server_cert_file else "")

    def client_url(self, bound: Address) -> str:
        """The URL of the server, bound at `bound`, for clients on this machine.

        As Go kine logs it, except when bound to one of several addresses: there Go kine logs an address that
        it does not listen on.
        """
        if bound.path:
            return f"{self.client_scheme()}://{bound.path}"
        reached = Address("127.0.0.1", bound.port) if bound.host in ANY_HOST else bound
        return f"{self.client_scheme()}://{reached}"

    def metrics_tls(self) -> Tls | None:
        """TLS of the metrics address. As in Go kine, clients need no certificate, except for profiles."""
        if self.metrics_ignore_tls_config or not self.server_cert_file:
            return None
        asked = self.trusted_ca_file if self.metrics_enable_profiling else ""
        return Tls(self.server_cert_file, self.server_key_file, asked, certificate_optional=bool(asked))

    def limits(self) -> Limits:
        return Limits(
            max_request_bytes=self.max_request_bytes + GRPC_OVERHEAD_BYTES,
            max_queued_bytes=self._share(self.max_queued_bytes),
            max_connections=self._share(self.max_connections),
        )


FLAGS = tuple(
    Flag(
        name=declared.name.replace("_", "-"),
        group=declared.metadata["group"],
        default=declared.metadata["default"],
        help=declared.metadata["help"],
        parse=declared.metadata["parse"],
    )
    for declared in fields(Settings)
    if declared.metadata
)


def settings(given: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Settings from flags (by field name) and, for a flag that is not given, its environment variable.

    An empty variable counts as set, as in Go kine: it makes a text empty, and leaves a number or a duration
    at its default. Raises `SettingError`.
    """
    for name in _T4_VARIABLES:
        if environ.get(name):
            raise SettingError(f"{name}: {NO_T4}")
    values: dict[str, Any] = {}
    for flag in FLAGS:
        where = f"--{flag.name}"
        written = given.get(flag.field)
        if written is None:
            where, written = flag.variable, environ.get(flag.variable)
            if written is None or (written == "" and isinstance(flag.parse(flag.default), int | float)):
                continue
        try:
            values[flag.field] = flag.parse(written)
        except ValueError as error:
            raise SettingError(f"{where}: {error}") from None
    return Settings(**values)
