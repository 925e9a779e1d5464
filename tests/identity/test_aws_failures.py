"""RDS IAM when the provider of the AWS credentials is late, slow, broken or refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import ssl
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from hashlib import sha1
from pathlib import Path

import pytest
import trustme

from kine import drivers, identity
from kine.drivers.base import DriverError, Options
from kine.drivers.postgres import inspect
from kine.drivers.postgres.dsn import parse
from kine.identity.base import IdentityError, Provider
from tests.identity import aws_stub, sigv4
from tests.identity.aws_stub import Answer, Asked, Stub

HOST = "db.c0ffee.eu-central-1.rds.amazonaws.com"
SECRET = "kept-in-confidence-8d3f"
OTHER_KEY = "AKIDOTHEREXAMPLE"
PATIENCE = 60.0


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment that names no credentials."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub(aws_stub.metadata()) as stub:
        yield stub


@pytest.fixture
async def aws() -> AsyncIterator[Callable[..., Provider]]:
    made: list[Provider] = []

    def provider(limit: float = 30.0) -> Provider:
        made.append(identity.provider("aws", limit))
        return made[-1]

    yield provider
    for each in made:
        await each.close()


async def token(provider: Provider, host: str = HOST) -> str:
    got = await provider.credential(host, 5432, "kine")
    assert got is not None
    return got


async def token_at_last(provider: Provider, key: str = sigv4.ACCESS_KEY) -> str:
    """Retries as a server does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                got = await token(provider)
            except IdentityError:
                await asyncio.sleep(0.05)
            else:
                if aws_stub.access_key(got) == key:
                    return got
                await asyncio.sleep(0.05)


def from_metadata(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> None:
    bare.delenv("AWS_EC2_METADATA_DISABLED")
    bare.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", stub.address)
    stub.behave = aws_stub.metadata()


def from_container(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> None:
    """As on ECS; EKS Pod Identity also names a file with its own token."""
    bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{stub.address}/credentials")
    (directory / "pod").write_text(SECRET)
    bare.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(directory / "pod"))
    stub.behave = aws_stub.container()


def from_web_identity(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> None:
    (directory / "identity").write_text(SECRET)
    bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(directory / "identity"))
    bare.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/kine")
    bare.setenv("AWS_ENDPOINT_URL_STS", stub.address)
    stub.behave = aws_stub.sts()


BREAKS = {
    "500": aws_stub.always("broken", 500),
    "404": aws_stub.always("nothing here", 404),
    "429": aws_stub.always("slow down", 429),
    "junk": aws_stub.always(f"<{SECRET}"),
    "nothing": aws_stub.always(""),
    "refuses": aws_stub.refusing(),
}


@pytest.mark.parametrize(
    ("source", "broken"),
    [
        *((from_metadata, broken) for broken in BREAKS),
        (from_container, "500"),
        (from_container, "junk"),
        (from_web_identity, "500"),
        (from_web_identity, "junk"),
        (from_web_identity, "refuses"),
    ],
)
async def test_provider_that_fails_at_first_is_asked_again(
    bare: pytest.MonkeyPatch,
    stub: Stub,
    tmp_path: Path,
    aws: Callable[..., Provider],
    source: Callable[..., None],
    broken: str,
) -> None:
    source(bare, stub, tmp_path)
    heals, stub.behave = stub.behave, BREAKS[broken]
    provider = aws()
    with pytest.raises(IdentityError) as failed:
        await token(provider)
    assert SECRET not in str(failed.value)
    stub.behave = heals
    assert aws_stub.access_key(await token_at_last(provider)) == sigv4.ACCESS_KEY


async def test_file_that_appears_later_is_found(
    bare: pytest.MonkeyPatch, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    provider = aws()
    with pytest.raises(IdentityError, match="no AWS credentials were found"):
        await token(provider)
    (tmp_path / "credentials").write_text(
        f"[default]\naws_access_key_id = {sigv4.ACCESS_KEY}\naws_secret_access_key = {sigv4.SECRET_KEY}\n"
    )
    await token_at_last(provider)


@pytest.mark.engines
@pytest.mark.parametrize("source", [from_container, from_web_identity])
async def test_credentials_serve_until_they_expire_whatever_their_renewal_does(
    bare: pytest.MonkeyPatch,
    stub: Stub,
    tmp_path: Path,
    aws: Callable[..., Provider],
    source: Callable[..., None],
) -> None:
    source(bare, stub, tmp_path)
    brief = {
        from_container: aws_stub.container(lambda: aws_stub.keys(24)),
        from_web_identity: aws_stub.sts(24),
    }
    later = {
        from_container: aws_stub.container(lambda: aws_stub.keys(access_key=OTHER_KEY)),
        from_web_identity: aws_stub.sts(access_key=OTHER_KEY),
    }
    stub.behave = brief[source]
    provider = aws()
    await token(provider)
    stub.behave = aws_stub.refusing()
    # Renewed automatically from half its lifetime on, without success.
    assert await asyncio.to_thread(stub.wait_for, len(stub.asked) + 1)
    assert aws_stub.access_key(await token(provider)) == sigv4.ACCESS_KEY
    stub.behave = later[source]
    await token_at_last(provider, OTHER_KEY)


async def test_silent_provider_is_given_up_in_time_and_a_renewal_delays_nobody(
    bare: pytest.MonkeyPatch, stub: Stub, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    from_container(bare, stub, tmp_path)
    stub.talking.clear()
    provider = aws(2.0)
    with pytest.raises(IdentityError, match=r"within 2 s.*--identity-timeout"):
        await token(provider)
    stub.talking.set()
    stub.behave = aws_stub.container(lambda: aws_stub.keys(24))
    await token_at_last(provider)
    stub.talking.clear()
    assert await asyncio.to_thread(stub.wait_for, len(stub.asked) + 1)
    await token(provider)  # meanwhile the renewal waits
    assert not stub.talking.is_set()


async def test_who_waits_behind_a_silent_provider_fails_with_the_first(
    bare: pytest.MonkeyPatch, stub: Stub, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    """As writes do that wait one after the other for the one connection for writing."""
    from_container(bare, stub, tmp_path)
    stub.talking.clear()
    provider, turn = aws(2.0), asyncio.Lock()

    async def ask() -> None:
        async with turn:
            with pytest.raises(IdentityError):
                await token(provider)

    await asyncio.gather(*(ask() for _ in range(12)))
    assert len(stub.asked) < 6  # one on an idle machine; otherwise each would wait in turn


def no_token_file(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_web_identity(bare, stub, directory)
    (directory / "identity").unlink()
    return "No such file"


def no_container_token_file(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_container(bare, stub, directory)
    (directory / "pod").unlink()
    return "No such file"


def _process(directory: Path, command: str) -> None:
    (directory / "config").write_text(f"[default]\ncredential_process = {command}\n")


def no_process(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    _process(directory, "/nonexistent/process")
    return "No such file"


def process_that_prints_its_secret(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    script = directory / "process.py"
    script.write_text(f"import sys; sys.stderr.write('key {SECRET}'); sys.exit(3)")
    _process(directory, f"{sys.executable} {script}")
    return "exit status 3"


def process_that_prints_junk(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    (directory / "junk").write_text(f"{{{SECRET}")
    _process(directory, f"cat {directory / 'junk'}")
    return "gave no credentials"


def process_of_a_source_profile(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    process_that_prints_its_secret(bare, stub, directory)
    text = (directory / "config").read_text().replace("[default]", "[profile base]")
    (directory / "config").write_text(
        f"[default]\nrole_arn = arn:aws:iam::1:role/a\nsource_profile = base\n{text}"
    )
    return "exit status 3"


def process_that_hangs(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    _process(directory, "sleep 600")
    return "ended after"


def expired(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_container(bare, stub, directory)
    stub.behave = aws_stub.container(lambda: aws_stub.keys(-3600))
    return "expired"


def junk_from_sts(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_web_identity(bare, stub, directory)
    stub.behave = aws_stub.always(f"<{SECRET}", kind="text/xml")
    return "gave no credentials"


def damaged_file(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    (directory / "config").write_text(f"[default\n{SECRET}")
    return "config"


def expired_login(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    bare.setenv("HOME", str(directory))
    (directory / "config").write_text(
        "[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = kine\n"
        "[sso-session s]\nsso_region = eu-central-1\nsso_start_url = https://example.com\n"
    )
    return "SSO.*does not exist.*aws sso login"


def expired_login_of_yesterday(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    expired_login(bare, stub, directory)
    for place in (
        "credentials.SSOProvider._SSO_TOKEN_CACHE_DIR",
        "tokens.SSOTokenProvider._SSO_TOKEN_CACHE_DIR",
    ):
        bare.setattr(
            f"botocore.{place}", str(directory / "logins")
        )  # else the home directory's at the import
    log_in(directory, "2020-01-01T00:00:00Z")
    return "expired.*aws sso login"


def log_in(directory: Path, until: str) -> None:
    """Creates the files that `aws sso login` leaves."""
    cache = directory / "logins"
    cache.mkdir(exist_ok=True)
    (cache / f"{sha1(b's', usedforsecurity=False).hexdigest()}.json").write_text(
        json.dumps({"accessToken": SECRET, "expiresAt": until, "region": "eu-central-1"})
    )


def silent_container(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_container(bare, stub, directory)
    bare.setattr("botocore.utils.ContainerMetadataFetcher.TIMEOUT_SECONDS", 0.2)
    bare.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    stub.talking.clear()
    return r"metadata service of the container did not answer \(asked 3 times, 0.2 s each\)"


def container_that_is_not_there(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    from_container(bare, stub, directory)
    bare.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")
    return "metadata service of the container cannot be reached"


def hop_limit_too_low(bare: pytest.MonkeyPatch, stub: Stub, directory: Path) -> str:
    """The response with the token does not arrive, and without a token there is none."""
    from_metadata(bare, stub, directory)

    def behave(asked: Asked) -> Answer:
        if asked.method == "PUT":
            time.sleep(3)
        return Answer("", 401)

    stub.behave = behave
    return "hop limit must be 2"


@pytest.mark.parametrize(
    "failure",
    [
        hop_limit_too_low,
        no_token_file,
        no_container_token_file,
        no_process,
        process_that_prints_its_secret,
        process_that_prints_junk,
        process_of_a_source_profile,
        process_that_hangs,
        expired,
        junk_from_sts,
        damaged_file,
        expired_login,
        expired_login_of_yesterday,
        silent_container,
        container_that_is_not_there,
    ],
)
async def test_any_failure_of_a_provider_is_one_error_and_one_line(
    bare: pytest.MonkeyPatch,
    stub: Stub,
    tmp_path: Path,
    aws: Callable[..., Provider],
    caplog: pytest.LogCaptureFixture,
    failure: Callable[..., str],
) -> None:
    reason = failure(bare, stub, tmp_path)
    provider = aws(8.0 if failure is process_that_hangs else 30.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with pytest.raises(IdentityError, match=f"(?i){reason}"):
                await token(provider)
    assert len(caplog.records) == 1
    assert not caplog.records[0].exc_info
    assert SECRET not in caplog.text


async def test_expired_login_is_renewed_while_kine_waits(
    bare: pytest.MonkeyPatch, stub: Stub, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    expired_login_of_yesterday(bare, stub, tmp_path)
    bare.setenv("AWS_ENDPOINT_URL_SSO", stub.address)
    provider = aws()
    with pytest.raises(IdentityError, match="has expired"):
        await token(provider)
    assert not stub.asked
    role = {
        "accessKeyId": sigv4.ACCESS_KEY,
        "secretAccessKey": sigv4.SECRET_KEY,
        "sessionToken": "temporary",
        "expiration": int((time.time() + 3600) * 1000),
    }
    stub.behave = aws_stub.always(json.dumps({"roleCredentials": role}), kind="application/json")
    log_in(tmp_path, "2099-01-01T00:00:00Z")
    await token_at_last(provider)
    assert [asked.headers["x-amz-sso_bearer_token"] for asked in stub.asked] == [SECRET]


async def test_failures_of_days_in_a_row_are_still_failures_of_the_provider(
    bare: pytest.MonkeyPatch, aws: Callable[..., Provider]
) -> None:
    provider = aws()
    provider._failures = 5000  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(IdentityError):
            await token(provider)


async def test_no_thread_to_be_had_is_a_failure_of_the_provider(
    bare: pytest.MonkeyPatch, aws: Callable[..., Provider]
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bare.setattr(threading.Thread, "start", start)
    with pytest.raises(IdentityError, match="limit on threads"):
        await token(aws())


async def test_role_is_assumed_by_the_role_of_a_source_profile(
    bare: pytest.MonkeyPatch, stub: Stub, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    bare.setenv("AWS_ENDPOINT_URL_STS", stub.address)
    stub.behave = aws_stub.sts()
    (tmp_path / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::1:role/last\nsource_profile = middle\n"
        "[profile middle]\nrole_arn = arn:aws:iam::1:role/first\nsource_profile = base\n"
        f"[profile base]\naws_access_key_id = {OTHER_KEY}\naws_secret_access_key = {SECRET}\n"
    )
    got = await token(aws())
    assert (aws_stub.access_key(got), sigv4.fields(got)["X-Amz-Security-Token"]) == (
        sigv4.ACCESS_KEY,
        "temporary",
    )
    roles = [asked.body for asked in stub.asked]
    assert ["first" in body for body in roles] == [True, False]


async def test_credentials_that_the_database_refuses_are_looked_up_again(
    bare: pytest.MonkeyPatch, tmp_path: Path, aws: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(key: str) -> None:
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {sigv4.SECRET_KEY}\n"
        )

    monkeypatch.setattr("kine.identity.rds_iam._DOUBT", 0.0)
    write(OTHER_KEY)
    provider = aws()
    await token(provider)
    write(sigv4.ACCESS_KEY)
    assert aws_stub.access_key(await token(provider)) == OTHER_KEY
    provider.refused()
    assert aws_stub.access_key(await token(provider)) == sigv4.ACCESS_KEY


# ---- endpoints and regions


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"AWS_REGION": "us-west-2"}, "sts.us-west-2.amazonaws.com"),
        ({"AWS_DEFAULT_REGION": "us-west-2"}, "sts.us-west-2.amazonaws.com"),
        ({"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "us-east-1"}, "sts.us-west-2.amazonaws.com"),
        ({}, "sts.eu-central-1.amazonaws.com"),
        ({"AWS_REGION": "us-west-2", "AWS_USE_FIPS_ENDPOINT": "true"}, "sts-fips.us-west-2.amazonaws.com"),
        ({"AWS_REGION": "us-west-2", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, "sts.us-west-2.api.aws"),
        ({"AWS_REGION": "us-west-2", "AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, "sts.amazonaws.com"),
        ({"AWS_REGION": "cn-north-1"}, "sts.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_sts_is_asked_where_the_environment_says(
    bare: pytest.MonkeyPatch,
    stub: Stub,
    tmp_path: Path,
    aws: Callable[..., Provider],
    settings: dict[str, str],
    host: str,
) -> None:
    from_web_identity(bare, stub, tmp_path)
    bare.delenv("AWS_ENDPOINT_URL_STS")
    bare.setenv("HTTPS_PROXY", stub.address)  # gets the name, and refuses to connect
    for name, value in settings.items():
        bare.setenv(name, value)
    stub.behave = aws_stub.always("", 403)
    with pytest.raises(IdentityError):
        await token(aws())
    assert {asked.path for asked in stub.asked} == {f"{host}:443"}


async def test_every_endpoint_variable_leads_to_sts(
    bare: pytest.MonkeyPatch, stub: Stub, tmp_path: Path, aws: Callable[..., Provider]
) -> None:
    from_web_identity(bare, stub, tmp_path)
    bare.delenv("AWS_ENDPOINT_URL_STS")
    bare.setenv("AWS_ENDPOINT_URL", stub.address)
    assert aws_stub.access_key(await token(aws())) == sigv4.ACCESS_KEY


@pytest.mark.parametrize("host", ["2001:db8::7", "DB.Example.COM", HOST.upper()])
async def test_the_name_that_is_signed_is_the_one_that_is_sent(
    bare: pytest.MonkeyPatch, aws: Callable[..., Provider], host: str
) -> None:
    bare.setenv("AWS_ACCESS_KEY_ID", sigv4.ACCESS_KEY)
    bare.setenv("AWS_SECRET_ACCESS_KEY", sigv4.SECRET_KEY)
    bare.setenv("AWS_REGION", "eu-central-1")
    got = await token(aws(), host)
    named = f"[{host}]" if ":" in host else host.lower()
    assert sigv4.fields(got) == sigv4.fields(
        sigv4.token(named, 5432, "kine", "eu-central-1", sigv4.signed_at(got))
    )


# ---- what the variables of libpq may change


IAM = Options(identity_provider="aws")


@pytest.mark.parametrize("told", ["require", "verify-ca", "prefer", "disable", None])
def test_no_variable_weakens_whom_a_token_is_given_to(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    if told is not None:
        monkeypatch.setenv("PGSSLMODE", told)
    connection = parse(f"postgres://kine@{HOST}/kine", IAM).connection
    assert connection["sslmode"] == "verify-full"
    assert connection["sslrootcert"]  # the CAs that the machine trusts


@pytest.mark.parametrize(
    ("endpoint", "options"),
    [
        (f"postgres://kine@{HOST}/kine?sslmode=require", IAM),
        (f"postgres://kine@{HOST}/kine?sslmode=verify-ca", IAM),
        (f"postgres://kine@{HOST}/kine", Options(identity_provider="aws", skip_verify=True)),
        (f"mysql://kine@tcp({HOST}:3306)/kine?tls=skip-verify", IAM),
    ],
)
def test_less_is_done_by_name_only_and_logged(
    caplog: pytest.LogCaptureFixture, endpoint: str, options: Options
) -> None:
    with caplog.at_level(logging.WARNING):
        drivers.connect(endpoint, options)
    assert "not verified" in caplog.text


def test_variables_name_the_server_that_a_token_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGHOST": HOST, "PGPORT": "6432", "PGUSER": "kine"}.items():
        monkeypatch.setenv(name, value)
    connection = parse("postgres:///kine", IAM).connection
    assert (connection["host"], connection["port"], connection["user"]) == (HOST, "6432", "kine")


@pytest.mark.parametrize(
    ("variable", "value", "keyword", "found"),
    [
        ("PGCONNECT_TIMEOUT", "3", "connect_timeout", "3"),
        ("PGAPPNAME", "mine", "application_name", "mine"),
        ("PGOPTIONS", "-c a.b=1", "options", "-c a.b=1 -c statement_timeout=1s"),
    ],
)
def test_our_defaults_give_way_to_variables(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, keyword: str, found: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert parse("postgres://kine@db/kine?statement_timeout=1s", Options()).connection[keyword] == found


# ---- against a server


@pytest.mark.parametrize("presented", ["another authority", "another name"])
async def test_token_is_kept_from_a_server_that_is_not_the_one(
    bare: pytest.MonkeyPatch, tmp_path: Path, presented: str
) -> None:
    """A server that requests the password with a certificate of another CA or for another name."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    named = "db.example.com" if presented == "another name" else "127.0.0.1"
    authority.issue_cert(named).configure_cert(context)
    known = authority if presented == "another name" else trustme.CA()
    known.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    bare.setenv("AWS_ACCESS_KEY_ID", sigv4.ACCESS_KEY)
    bare.setenv("AWS_SECRET_ACCESS_KEY", sigv4.SECRET_KEY)
    bare.setenv("AWS_REGION", "eu-central-1")
    bare.setenv("PGSSLMODE", "require")
    bare.setenv("PGSSLROOTCERT", str(tmp_path / "ca.pem"))
    given: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)
            writer.write(b"S")
            await writer.start_tls(context)
            size = struct.unpack("!i", await reader.readexactly(4))[0]
            await reader.readexactly(size - 4)
            writer.write(b"R" + struct.pack("!ii", 8, 3))
            given.append(await reader.read(4096))
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DriverError, match="certificate"):
        async with inspect(f"postgres://kine@127.0.0.1:{port}/kine", IAM):
            pass
    server.close()
    assert given == []
