"""RDS IAM: tokens as AWS computes them, and connections made with them."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pymysql
import pytest

from kine import drivers, identity
from kine.drivers.base import Options
from kine.identity.base import IdentityError
from kine.identity.rds_iam import region_of
from tests.certificates import serving
from tests.client import Client
from tests.databases import mysql, postgres
from tests.databases.process import free_port
from tests.identity import sigv4
from tests.identity.mysql_password_gate import MysqlGate
from tests.identity.postgres_password_gate import Gate
from tests.servers import mysql as mysql_servers
from tests.servers.kine import start_kine
from tests.servers.process import Instance

REGION = "eu-central-1"
USER = "kine_app"
PATIENCE = 60.0  # seconds, for a new connection

HOSTS = {
    "db.c0ffee.eu-central-1.rds.amazonaws.com": "eu-central-1",
    "db.cluster-c0ffee.us-gov-west-1.rds.amazonaws.com": "us-gov-west-1",
    "DB.C0FFEE.AP-SOUTHEAST-2.RDS.AMAZONAWS.COM": "ap-southeast-2",
    "db.c0ffee.rds.cn-north-1.amazonaws.com.cn": "cn-north-1",
    "db.c0ffee.cn-northwest-1.rds.amazonaws.com.cn": "cn-northwest-1",
    "db.c0ffee.us-iso-east-1.rds.c2s.ic.gov": "us-iso-east-1",
    "db.c0ffee.us-isob-east-1.rds.sc2s.sgov.gov": "us-isob-east-1",
    "db.c0ffee.us-isof-south-1.rds.csp.hci.ic.gov": "us-isof-south-1",
    "db.c0ffee.eu-isoe-west-1.rds.cloud.adc-e.uk": "eu-isoe-west-1",
    "db.c0ffee.eusc-de-east-1.rds.amazonaws.eu": "eusc-de-east-1",
    "db.proxy-c0ffee.mx-central-1.rds.amazonaws.com.": "mx-central-1",
    "db.example.com": None,
    "10.0.0.7": None,
    "rds.amazonaws.com.example.com": None,
}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", sigv4.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", sigv4.SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)
    return monkeypatch


@pytest.mark.parametrize(("host", "region"), HOSTS.items())
def test_region_is_read_from_the_host(host: str, region: str | None) -> None:
    assert region_of(host) == region


@pytest.mark.parametrize("user", ["kine", "we/ird us+er=&%", "ünï"])
async def test_token_is_what_the_rules_say(aws: pytest.MonkeyPatch, user: str) -> None:
    host = "db.c0ffee.ap-southeast-2.rds.amazonaws.com"
    got = await identity.provider("aws").credential(host, 5432, user)
    due = sigv4.token(host, 5432, user, "ap-southeast-2", sigv4.signed_at(got))
    assert sigv4.fields(got) == sigv4.fields(due)


async def test_temporary_credentials_are_part_of_the_token(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_SESSION_TOKEN", "temporary/+=")
    got = await identity.provider("aws").credential("db.example.com", 3306, USER)
    due = sigv4.token(
        "db.example.com", 3306, USER, REGION, sigv4.signed_at(got), session_token="temporary/+="
    )
    assert sigv4.fields(got) == sigv4.fields(due)


def _profile(aws: pytest.MonkeyPatch, directory: Path) -> None:
    (directory / "credentials").write_text(
        f"[chosen]\naws_access_key_id = {sigv4.ACCESS_KEY}\naws_secret_access_key = {sigv4.SECRET_KEY}\n"
    )
    aws.setenv("AWS_PROFILE", "chosen")


def _process(aws: pytest.MonkeyPatch, directory: Path) -> None:
    told = {"Version": 1, "AccessKeyId": sigv4.ACCESS_KEY, "SecretAccessKey": sigv4.SECRET_KEY}
    (directory / "told").write_text(json.dumps(told))
    (directory / "config").write_text(f"[default]\ncredential_process = cat {directory / 'told'}\n")


def _serve(aws: pytest.MonkeyPatch, body: str, kind: str) -> str:
    """The address of an HTTP server on loopback that answers every request alike."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None:
            """Logs nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("no_proxy", "NO_PROXY"):
        aws.setenv(name, "127.0.0.1")
    return f"http://127.0.0.1:{server.server_port}"


_EXPIRES = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _container(aws: pytest.MonkeyPatch, directory: Path) -> None:
    told = {
        "AccessKeyId": sigv4.ACCESS_KEY,
        "SecretAccessKey": sigv4.SECRET_KEY,
        "Token": "temporary",
        "Expiration": _EXPIRES,
    }
    where = _serve(aws, json.dumps(told), "application/json")
    aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{where}/credentials")


def _web_identity(aws: pytest.MonkeyPatch, directory: Path) -> None:
    body = (
        '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        "<AssumeRoleWithWebIdentityResult><Credentials>"
        f"<AccessKeyId>{sigv4.ACCESS_KEY}</AccessKeyId><SecretAccessKey>{sigv4.SECRET_KEY}</SecretAccessKey>"
        f"<SessionToken>temporary</SessionToken><Expiration>{_EXPIRES}</Expiration>"
        "</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
    (directory / "identity").write_text("the pod's own token")
    aws.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(directory / "identity"))
    aws.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kine")
    aws.setenv("AWS_ENDPOINT_URL_STS", _serve(aws, body, "text/xml"))


@pytest.mark.parametrize(
    ("link", "session_token"),
    [(_profile, ""), (_process, ""), (_container, "temporary"), (_web_identity, "temporary")],
)
async def test_every_link_of_the_credential_chain_signs(
    aws: pytest.MonkeyPatch,
    tmp_path: Path,
    link: Callable[[pytest.MonkeyPatch, Path], None],
    session_token: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        aws.delenv(name)
    link(aws, tmp_path)
    got = await identity.provider("aws").credential("db.example.com", 5432, USER)
    due = sigv4.token("db.example.com", 5432, USER, REGION, sigv4.signed_at(got), session_token=session_token)
    assert sigv4.fields(got) == sigv4.fields(due)


async def test_absent_credentials_say_what_to_set(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(IdentityError, match="AWS_ACCESS_KEY_ID"):
        await identity.provider("aws").credential("db.example.com", 5432, USER)


async def test_absent_region_says_what_to_set(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_REGION")
    with pytest.raises(IdentityError, match="AWS_REGION"):
        await identity.provider("aws").credential("db.example.com", 5432, USER)


@pytest.mark.parametrize(
    ("host", "environment", "profile", "due"),
    [
        ("db.example.com", "eu-central-1", "us-east-1", "eu-central-1"),
        ("db.example.com", None, "us-east-1", "us-east-1"),
        ("db.c0ffee.ap-southeast-2.rds.amazonaws.com", "eu-central-1", "us-east-1", "ap-southeast-2"),
    ],
    ids=["variable before profile", "profile", "host before both"],
)
async def test_region_is_the_hosts_then_the_variables_then_the_profiles(
    aws: pytest.MonkeyPatch, tmp_path: Path, host: str, environment: str | None, profile: str, due: str
) -> None:
    (tmp_path / "config").write_text(f"[default]\nregion = {profile}\n")
    aws.delenv("AWS_REGION")
    if environment:
        aws.setenv("AWS_REGION", environment)
    got = await identity.provider("aws").credential(host, 5432, USER)
    assert sigv4.fields(got) == sigv4.fields(sigv4.token(host, 5432, USER, due, sigv4.signed_at(got)))


async def test_unknown_profile_is_named(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(IdentityError, match="nowhere"):
        await identity.provider("aws").credential("db.example.com", 5432, USER)


def test_unknown_provider_lists_the_known() -> None:
    with pytest.raises(ValueError, match="known are aws"):
        identity.provider("azure")


@pytest.mark.parametrize(
    ("endpoint", "fix"),
    [
        ("postgres://kine@db.example.com/kine?sslmode=disable", "verify-full"),
        ("postgres://kine@db.example.com/kine?sslmode=prefer", "verify-full"),
        ("postgres://db.example.com/kine", "user"),
        ("postgres://kine@a,b/kine", "one host"),
        ("mysql://kine@tcp(db.example.com:3306)/kine", "tls=true"),
        ("mysql://kine@tcp(db.example.com:3306)/kine?tls=preferred", "tls=true"),
        ("mysql://kine@unix(/run/mysqld.sock)/kine?tls=true", "user and host"),
    ],
)
def test_endpoint_that_would_leak_or_lack_a_token_is_refused(endpoint: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        drivers.connect(endpoint, Options(identity_provider="aws"))


# ---- real connections


@pytest.fixture(scope="module")
def trusting_server() -> Iterator[postgres.Postgres]:
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.trusting(USER) as server:
        yield server


class Clock:
    """The clock of the gate that checks tokens."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(trusting_server: postgres.Postgres, clock: Clock, tmp_path: Path) -> Iterator[Gate]:
    context = serving(tmp_path)

    def judge(user: str, password: str) -> bool:
        return user == USER and sigv4.good(password, "127.0.0.1", gate.port, user, REGION, clock.now())

    with Gate(trusting_server.port, context, judge) as gate:
        yield gate


def kine_on(
    gate: Gate, tmp_path: Path, database: str, until: Callable[[str], str | None] | None = None
) -> Instance:
    return start_kine(
        f"postgres://{USER}@127.0.0.1:{gate.port}/{database}",
        "http2",
        tmp_path / "kine",
        flags=("--identity-provider=aws", f"--ca-file={tmp_path / 'ca.pem'}", "--debug"),
        until=until,
    )


def test_connections_are_made_with_fresh_tokens_and_none_is_logged(
    aws: pytest.MonkeyPatch, gate: Gate, trusting_server: postgres.Postgres, tmp_path: Path
) -> None:
    instance = kine_on(gate, tmp_path, trusting_server.new_database())
    with Client(instance.address) as client:
        client.put(b"/iam/a", b"1")
        gate.cut()
        put_until_served(client, b"/iam/a", b"2")
        assert client.range(b"/iam/a").kvs[0].value == b"2"
    assert instance.stop() == 0
    log = instance.log.read_text()
    signatures = {sigv4.fields(token)["X-Amz-Signature"] for token in gate.presented}
    assert signatures
    assert not any(signature in log for signature in signatures)
    assert sigv4.SECRET_KEY not in log


def test_old_token_is_refused_and_the_pool_recovers_with_new_ones(
    aws: pytest.MonkeyPatch, gate: Gate, clock: Clock, trusting_server: postgres.Postgres, tmp_path: Path
) -> None:
    instance = kine_on(gate, tmp_path, trusting_server.new_database())
    with Client(instance.address) as client:
        client.put(b"/iam/b", b"1")
        old = gate.presented[0]
        clock.ahead = timedelta(minutes=16)
        with pytest.raises(psycopg.OperationalError, match="authentication failed"):
            psycopg.connect(
                host="127.0.0.1",
                port=gate.port,
                user=USER,
                password=old,
                dbname="postgres",
                sslmode="require",
            )
        gate.cut()  # tokens signed now are old to the gate, too
        for _ in range(2):  # the first may still get the connection that was cut
            with pytest.raises(grpc.RpcError) as refused:
                client.put(b"/iam/b", b"2")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        clock.ahead = timedelta(0)
        put_until_served(client, b"/iam/b", b"3")
        assert client.range(b"/iam/b").kvs[0].value == b"3"
    instance.stop()
    assert "clock" in instance.log.read_text()


def test_missing_credentials_are_told_while_starting(
    aws: pytest.MonkeyPatch, gate: Gate, tmp_path: Path
) -> None:
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    aws.delenv("AWS_ACCESS_KEY_ID")
    reason = "no AWS credentials were found"
    instance = kine_on(gate, tmp_path, "kubernetes", until=lambda line: line if reason in line else None)
    assert instance.running  # it keeps trying
    instance.kill()


# ---- MariaDB


@pytest.fixture
def mysql_gate(clock: Clock, tmp_path: Path) -> Iterator[MysqlGate]:
    if reason := mysql.missing():
        pytest.skip(reason)
    server = mysql_servers.database_server()
    with server.admin() as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE USER IF NOT EXISTS {USER}@'127.0.0.1'")
        cursor.execute(f"GRANT ALL ON *.* TO {USER}@'127.0.0.1'")
    context = serving(tmp_path)

    def judge(user: str, password: str) -> bool:
        return user == USER and sigv4.good(password, "127.0.0.1", gate.port, user, REGION, clock.now())

    with MysqlGate(server.port, context, judge) as gate:
        yield gate


def test_mariadb_gets_fresh_tokens_over_tls_and_the_pool_recovers(
    aws: pytest.MonkeyPatch, mysql_gate: MysqlGate, clock: Clock, tmp_path: Path
) -> None:
    instance = start_kine(
        f"mysql://{USER}@tcp(127.0.0.1:{mysql_gate.port})/iam",
        "http2",
        tmp_path / "kine",
        flags=(
            "--identity-provider=aws",
            f"--ca-file={tmp_path / 'ca.pem'}",
            "--debug",
            f"--metrics-bind-address=127.0.0.1:{(metrics := free_port())}",
        ),
    )
    with Client(instance.address) as client:
        client.put(b"/iam/m", b"1")
        old = mysql_gate.presented[0]
        clock.ahead = timedelta(minutes=16)
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            pymysql.connect(
                host="127.0.0.1",
                port=mysql_gate.port,
                user=USER,
                password=old,
                ssl=ssl.create_default_context(cafile=str(tmp_path / "ca.pem")),
                auth_plugin_map={b"mysql_clear_password": _Cleartext},
            )
        mysql_gate.cut()  # tokens signed now are old to the gate, too
        for _ in range(2):  # the first may still get the connection that was cut
            with pytest.raises(grpc.RpcError) as refused:
                client.put(b"/iam/m", b"2")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        before = len(mysql_gate.presented)
        clock.ahead = timedelta(0)
        put_until_served(client, b"/iam/m", b"3")
        assert client.range(b"/iam/m").kvs[0].value == b"3"
        assert len(mysql_gate.presented) > before
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as answer:
            told = answer.read().decode()
    assert instance.stop() == 0
    told += instance.log.read_text()
    signatures = {sigv4.fields(token)["X-Amz-Signature"] for token in mysql_gate.presented}
    assert "clock" in told
    assert not any(signature in told for signature in signatures)
    assert sigv4.SECRET_KEY not in told


class _Cleartext:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def authenticate(self, packet: Any) -> Any:
        self._connection.write_packet(self._connection.password + b"\0")
        answer = self._connection._read_packet()
        answer.check_error()
        return answer


def put_until_served(client: Client, key: bytes, value: bytes) -> None:
    """Retries a put, as the first calls after a cut may still get a lost connection."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.put(key, value)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
