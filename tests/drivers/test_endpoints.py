"""Endpoint parsing: each is read as by Go kine's drivers (pgx, go-sql-driver/mysql), or refused."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from kine import drivers
from kine.drivers.base import Options
from kine.drivers.mysql import dsn as mysql
from kine.drivers.postgres import dsn as postgres
from kine.drivers.postgres import private_key_copy
from tests.certificates import write_authority, write_pair

REFUSED = {
    "postgres://u:hidden-word@h/d?sslmode=verify_full": "sslmode.*verify-full",
    "postgres://u:hidden-word@h/d?sslmode=disabled": "sslmode.*disable",
    "postgres://u:hidden-word@h:70000/d": "port is not a number from 1 to 65535",
    "postgres://u:hidden-word@h:0/d": "port",
    "postgres://u:hidden-word@h/d?port=x": "port",
    "postgres://u:hidden-word@h/d?sslmode=verify-ca&sslrootcert=/no/ca.pem": "sslrootcert.*/no/ca.pem",
    "postgres://u:hidden-word@h/d?sslcert=/no/c.pem&sslkey=/no/k.pem": "sslcert.*/no/c.pem",
    "postgres://u:hidden-word@h/d?sslkey=/no/k.pem": "belong together",
    "postgres://u:hidden-word@h/d?pool_max_conns=5": "--datastore-max-open-connections",
    "postgres://u:hidden-word@h/d?pool_min_conns=5": "--datastore-max-idle-connections",
    "postgres://u:hidden-word@h/d?pool_max_conn_lifetime=5m": "--datastore-connection-max-lifetime",
    "postgres://u:hidden-word@h/d?target_session_attrs=read-only": "read-write",
    "postgres://u:hidden-word@h/d?target_session_attrs=standby": "read-write",
    "postgres://u:hidden-word@h/d?target_session_attrs=leader": "target_session_attrs.*primary",
    "postgres://u:hidden-word@h/d?connect_timeout=soon": "connect_timeout",
    "postgres://u:hidden-word@h/d?connect_timeout=-1": "connect_timeout",
    "postgres://u:hidden-word@h/d?channel_binding=maybe": "channel_binding",
    "postgres://u:hidden-word@h/d?ssl=false": "sslmode",
    "mysql://u:hidden-word@tcp(h:70000)/d": "port is not a number from 1 to 65535",
    "mysql://u:hidden-word@tcp(h)/d?tls=custom": "tls in the endpoint",
    "mysql://u:hidden-word@tcp(h)/d?parseTime=maybe": "parseTime.*true or false",
    "mysql://u:hidden-word@tcp(h)/d?timeout=10": "timeout.*duration",
    "mysql://u:hidden-word@tcp(h)/d?sql_select_limit=10": "sql_select_limit",
    "mysql://u:hidden-word@tcp(h)/d?default_storage_engine=MyISAM": "default_storage_engine",
    "mysql://u:hidden-word@tcp(h)/d?completion_type=1": "completion_type",
    "nats://u:hidden-word@h:70000?noEmbed": "port is not a number from 1 to 65535",
    "nats://u:hidden-word@h?noEmbed&replica=3": "replica",
    "http://h:70000": "port is not a number from 1 to 65535.*http://10",
    "http://[::1": "in brackets.*http://10",
    "http://a b:1": "neither a name nor an address",
    "https://u:hidden-word@h": "takes no user and password",
    "postgres://u:hidden-word@[::1/d": "in brackets.*percent-encoded",
    "postgres://u:hidden-word@[::1]5432/d": "in brackets",
    "postgres://u:hidden-word@[h]:1/d": "in brackets",
    "postgres://u:hidden-word@h:1:2/d": "in brackets",
    "postgres://u:hidden-word@a,h]/d": "in brackets",
    "postgres://u:hidden-word@h/d?default_query_exec_mode=fast": "default_query_exec_mode.*simple_protocol",
    "postgres://u:hidden-word@h/d?statement_cache_capacity=many": "statement_cache_capacity.*number",
    "mysql://u:hidden-word@tcp([::1)/d": "in brackets",
    "mysql://u:hidden-word@tcp([::1]x)/d": "in brackets",
    "mysql://u:hidden-word@tcp(h)/d?loc=Foo": "loc.*time zone",
    "mysql://u:hidden-word@tcp(h)/d?loc=..%2Fetc": "loc.*time zone",
    "mysql://u:hidden-word@tcp(h)/d?maxAllowedPacket=abc": "maxAllowedPacket.*number of bytes",
    "mysql://u:hidden-word@tcp(h)/d?timeTruncate=soon": "timeTruncate.*duration",
    "mysql://u:hidden-word@tcp(h)/d?serverPubKey=key": "serverPubKey",
    "mysql://u:hidden-word@tcp(h)/d?charset=a%20b": "charset.*character set",
    "mysql://u:hidden-word@tcp(h)/d?collation=a%27b": "collation.*collation",
    "nats://u:hidden-word@[::1?noEmbed": "in brackets",
    "nats://u:hidden-word@h:1,nats://[::1]x?noEmbed": "in brackets",
}


@pytest.mark.parametrize("endpoint", REFUSED)
def test_what_no_database_could_mend_is_refused_at_once(endpoint: str) -> None:
    connect = drivers.connect
    if endpoint.startswith("http"):
        from kine.remote import connect  # type: ignore[assignment]

    with pytest.raises(ValueError, match=REFUSED[endpoint]) as refused:
        connect(endpoint, Options())
    assert "hidden-word" not in str(refused.value)


# ---- PostgreSQL


def libpq(endpoint: str, options: Options | None = None) -> dict[str, str]:
    return postgres.parse(endpoint, options or Options()).connection


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file of the CAs that the system trusts."""
    path = write_authority(tmp_path, trustme.CA())
    monkeypatch.setenv("SSL_CERT_FILE", path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return path


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
def test_verifying_without_a_ca_takes_the_systems(mode: str, authority: str) -> None:
    assert libpq(f"postgres://h/d?sslmode={mode}")["sslrootcert"] == authority
    assert libpq(f"postgres://h/d?sslmode={mode}")["sslmode"] == mode


def test_ca_called_system_is_the_systems_and_verifies_the_name(authority: str) -> None:
    found = libpq("postgres://h/d?sslmode=require&sslrootcert=system")
    assert (found["sslmode"], found["sslrootcert"]) == ("verify-full", authority)


def test_ca_in_the_home_directory_comes_first(authority: str, tmp_path: Path) -> None:
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").write_bytes(Path(authority).read_bytes())
    assert "sslrootcert" not in libpq("postgres://h/d?sslmode=verify-full")  # libpq finds it


def test_flags_verify_the_name_unless_the_endpoint_says_otherwise(authority: str) -> None:
    options = Options(ca_file=authority)
    assert libpq("postgres://h/d", options)["sslmode"] == "verify-full"
    assert libpq("postgres://h/d?sslmode=verify-ca", options)["sslmode"] == "verify-ca"


def test_key_that_others_may_read_becomes_one_that_libpq_takes(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path, trustme.CA())
    os.chmod(path, 0o644)
    with private_key_copy.usable(path) as usable:
        assert os.stat(usable).st_mode & 0o777 == 0o600
        assert Path(usable).read_bytes() == Path(path).read_bytes()
    assert not os.path.exists(usable)
    os.chmod(path, 0o600)
    with private_key_copy.usable(path) as usable:
        assert usable == path


def test_of_several_hosts_the_one_that_takes_writes_is_wanted() -> None:
    assert libpq("postgres://a,b/d")["target_session_attrs"] == "read-write"
    assert libpq("postgres://a,b/d?target_session_attrs=any")["target_session_attrs"] == "read-write"
    assert libpq("postgres://a,b/d?target_session_attrs=primary")["target_session_attrs"] == "primary"
    assert libpq("postgres://a/d?target_session_attrs=prefer-standby")["target_session_attrs"] == "any"


def test_other_spellings_of_pgx() -> None:
    assert postgres.parse("postgres://h/d?database=other", Options()).database == "other"
    assert libpq("postgres://h/d?ssl=true")["sslmode"] == "require"
    assert libpq("postgres://h/d?connect_timeout=0")["connect_timeout"] == "120"
    assert libpq("postgres://h/d?connect_timeout=7&connect_timeout=9")["connect_timeout"] == "7"


def test_name_in_lower_case_is_told_as_it_was_written() -> None:
    found = postgres.parse("postgres://h/K3S-db", Options())
    assert found.database == "k3s-db"
    assert found.shown == "k3s-db (K3S-db in the endpoint; in lower case, as Go kine has it)"
    assert postgres.parse("postgres://h/k3s", Options()).shown == "k3s"
    assert postgres.parse("postgres://h/", Options()).shown == "kubernetes"


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [("[::1]:1", "::1", "1"), ("[::1]", "::1", None), ("::1", "::1", None), ("a:1,[::2]:3", "a,::2", "1,3")],
)
def test_addresses_of_version_6(written: str, host: str, port: str | None) -> None:
    found = libpq(f"postgres://u@{written}/d")
    assert (found["host"], found.get("port")) == (host, port)


@pytest.mark.parametrize("name", ["utf8", "UTF-8", "UTF8", "Unicode"])
def test_encoding_as_kine_has_it_may_be_written(name: str) -> None:
    assert postgres.parse(f"postgres://h/d?client_encoding={name}", Options()).encoding == ""
    assert postgres.parse("postgres://h/d?client_encoding=latin1", Options()).encoding == "latin1"


# ---- MySQL


@pytest.mark.parametrize(
    ("account", "password"),
    [
        ("u:pa)/ss", "pa)/ss"),
        ("u:p@ss)/w/o?r=d", "p@ss)/w/o?r=d"),
        ("u:a@tcp(x)/b", "a@tcp(x)/b"),
        ("u:p:q", "p:q"),
    ],
)
@pytest.mark.parametrize(
    "rest", ["tcp(h:1)/d?loc=US%2FPacific", "unix(/run/s.sock)/d", "tcp(h:1)/d?timeout=5s", "tcp/d"]
)
def test_password_may_hold_any_character(account: str, password: str, rest: str) -> None:
    found = mysql.parse(f"mysql://{account}@{rest}", Options())
    assert (found.user, found.password, found.database) == ("u", password, "d")


def test_slash_in_a_parameter_is_not_the_databases() -> None:
    assert mysql.parse("mysql://u:p@tcp(h)/d?loc=US/Pacific", Options()).database == "d"


@pytest.fixture
def pair(tmp_path: Path) -> Options:
    authority = trustme.CA()
    cert, key = write_pair(tmp_path, authority)
    return Options(ca_file=write_authority(tmp_path, authority), cert_file=cert, key_file=key)


@pytest.mark.parametrize(
    ("tls", "mode", "optional"),
    [
        ("", ssl.CERT_REQUIRED, False),
        ("?tls=false", ssl.CERT_REQUIRED, False),
        ("?tls=TRUE", ssl.CERT_REQUIRED, False),
        ("?tls=skip-verify", ssl.CERT_NONE, False),
        ("?tls=preferred", ssl.CERT_NONE, True),
        ("?tls=true&allowFallbackToPlaintext=true", ssl.CERT_REQUIRED, True),
    ],
)
def test_tls_with_files_of_the_flags(pair: Options, tls: str, mode: ssl.VerifyMode, optional: bool) -> None:
    found = mysql.parse(f"mysql://u@tcp(h)/d{tls}", pair)
    assert found.tls is not None
    assert (found.tls.verify_mode, found.tls_optional) == (mode, optional)


def test_skipping_verification_alone_asks_for_no_tls() -> None:
    assert mysql.parse("mysql://u@tcp(h)/d", Options(skip_verify=True)).tls is None
    found = mysql.parse("mysql://u@tcp(h)/d?tls=true", Options(skip_verify=True)).tls
    assert found is not None
    assert found.verify_mode == ssl.CERT_NONE


def test_timeout_of_nothing_is_the_default() -> None:
    assert mysql.parse("mysql://u@tcp(h)/d?timeout=0s", Options()).connect_timeout == mysql.CONNECT_TIMEOUT


def test_settings_as_kine_has_them_may_be_written() -> None:
    written = "sql_safe_updates=0&completion_type=NO_CHAIN&default_storage_engine=InnoDB"
    assert mysql.parse(f"mysql://u@tcp(h)/d?{written}", Options()).settings == {}


def test_parameters_of_gos_driver_that_are_honoured() -> None:
    written = "charset=utf8mb4,utf8&collation=utf8mb4_bin&maxAllowedPacket=1000000&loc=Local&timeTruncate=1ms"
    found = mysql.parse(f"mysql://u@tcp(h)/d?{written}&connectionAttributes=a:1,b:x%20y", Options())
    assert (found.charsets, found.collation) == (("utf8mb4", "utf8"), "utf8mb4_bin")
    assert found.max_packet == 1000000
    assert found.attributes == (("a", "1"), ("b", "x y"))
    assert found.settings == {}


def test_parameters_without_effect_are_named(caplog: pytest.LogCaptureFixture) -> None:
    mysql.parse("mysql://u@tcp(h)/d?compress=true&allowNativePasswords=false", Options())
    assert caplog.messages == [
        "compress=true in the endpoint has no effect",
        "allowNativePasswords=false in the endpoint has no effect",
    ]


@pytest.mark.parametrize("written", [":2379", "http://:2379"])
def test_port_alone_is_of_this_machine(written: str) -> None:
    from kine.remote.endpoint import parse

    [found] = parse(f"http://{written.rpartition('/')[2]}")
    assert (found.host, found.port) == ("localhost", 2379)
