"""RDS IAM: tokens as AWS computes them, and connections made with them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
import pytest
import trustme

from kine import drivers, identity
from kine.drivers.base import Options
from kine.identity.aws import region_of
from kine.identity.base import IdentityError
from tests.client import Client
from tests.databases import postgres
from tests.identity import sigv4
from tests.identity.gate import Gate
from tests.servers.kine import start_kine
from tests.servers.process import StartError

REGION = "eu-central-1"
USER = "kine_app"

HOSTS = {
    "db.c0ffee.eu-central-1.rds.amazonaws.com": "eu-central-1",
    "db.cluster-c0ffee.us-gov-west-1.rds.amazonaws.com": "us-gov-west-1",
    "DB.C0FFEE.AP-SOUTHEAST-2.RDS.AMAZONAWS.COM": "ap-southeast-2",
    "db.c0ffee.rds.cn-north-1.amazonaws.com.cn": "cn-north-1",
    "db.c0ffee.cn-northwest-1.rds.amazonaws.com.cn": "cn-northwest-1",
    "db.c0ffee.us-iso-east-1.rds.c2s.ic.gov": "us-iso-east-1",
    "db.c0ffee.us-isob-east-1.rds.sc2s.sgov.gov": "us-isob-east-1",
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
    got = await identity.provider("aws").password(host, 5432, user)
    due = sigv4.token(host, 5432, user, "ap-southeast-2", sigv4.signed_at(got))
    assert sigv4.fields(got) == sigv4.fields(due)


async def test_temporary_credentials_are_part_of_the_token(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_SESSION_TOKEN", "temporary/+=")
    got = await identity.provider("aws").password("db.example.com", 3306, USER)
    due = sigv4.token(
        "db.example.com", 3306, USER, REGION, sigv4.signed_at(got), session_token="temporary/+="
    )
    assert sigv4.fields(got) == sigv4.fields(due)


async def test_absent_credentials_say_what_to_set(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(IdentityError, match="AWS_ACCESS_KEY_ID"):
        await identity.provider("aws").password("db.example.com", 5432, USER)


async def test_absent_region_says_what_to_set(aws: pytest.MonkeyPatch) -> None:
    aws.delenv("AWS_REGION")
    with pytest.raises(IdentityError, match="AWS_REGION"):
        await identity.provider("aws").password("db.example.com", 5432, USER)


async def test_unknown_profile_is_named(aws: pytest.MonkeyPatch) -> None:
    aws.setenv("AWS_PROFILE", "nowhere")
    with pytest.raises(IdentityError, match="nowhere"):
        await identity.provider("aws").password("db.example.com", 5432, USER)


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
    server = postgres.Postgres()
    rules = server.directory / "data" / "pg_hba.conf"
    rules.write_text("host all all 127.0.0.1/32 trust\n")
    with server.admin() as admin:
        admin.execute("SELECT pg_reload_conf()")
        admin.execute(f"CREATE ROLE {USER} LOGIN CREATEDB")
    yield server
    server.stop()


class Clock:
    """The judge's."""

    ahead = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(trusting_server: postgres.Postgres, clock: Clock, tmp_path: Path) -> Iterator[Gate]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def judge(user: str, password: str) -> bool:
        return user == USER and sigv4.good(password, "127.0.0.1", gate.port, user, REGION, clock.now())

    with Gate(trusting_server.port, context, judge) as gate:
        yield gate


def kine_on(gate: Gate, tmp_path: Path, database: str):
    return start_kine(
        f"postgres://{USER}@127.0.0.1:{gate.port}/{database}",
        "http2",
        tmp_path / "kine",
        flags=("--identity-provider=aws", f"--ca-file={tmp_path / 'ca.pem'}", "--debug"),
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
        gate.cut()  # what we sign now is old to the judge too
        for _ in range(2):  # the first may still meet the connection that was cut
            with pytest.raises(grpc.RpcError) as refused:
                client.put(b"/iam/b", b"2")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        clock.ahead = timedelta(0)
        put_until_served(client, b"/iam/b", b"3")
        assert client.range(b"/iam/b").kvs[0].value == b"3"
    instance.stop()
    assert "clock" in instance.log.read_text()


def test_missing_credentials_are_told_while_starting(
    aws: pytest.MonkeyPatch, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    aws.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr("tests.servers.process.START_TIMEOUT", 4.0)
    with pytest.raises(StartError, match="no AWS credentials were found"):
        kine_on(gate, tmp_path, "kubernetes")


def put_until_served(client: Client, key: bytes, value: bytes) -> None:
    """The first calls after a cut may meet a lost connection."""
    for attempt in range(20):
        try:
            client.put(key, value)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == 19:
                raise
        else:
            return
