"""The standalone executable logs in with credentials from AWS' services for roles and single sign-on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path

import pytest

from tests.certificates import serving
from tests.client import Client
from tests.databases import postgres
from tests.executable import executable, missing
from tests.identity import aws_stub, sigv4
from tests.identity.aws_stub import Stub
from tests.identity.postgres_password_gate import Gate
from tests.identity.test_aws import USER
from tests.identity.test_aws_serving import bare, judged
from tests.servers.kine import start_kine

__all__ = ["bare"]

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        bool(missing() or postgres.missing()), reason=missing() or postgres.missing() or "all is here"
    ),
]
ROLE = "arn:aws:iam::123456789012:role/kine"


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Postgres]:
    with postgres.trusting(USER) as server:
        yield server


@pytest.fixture
def gate(database: postgres.Postgres, tmp_path: Path) -> Iterator[Gate]:
    with Gate(database.port, serving(tmp_path), judged(lambda: found)) as found:
        yield found


def web_identity(bare: pytest.MonkeyPatch, stub: Stub, home: Path) -> None:
    (home / "identity").write_text("the pod's own token")
    bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(home / "identity"))
    bare.setenv("AWS_ROLE_ARN", ROLE)
    bare.setenv("AWS_ENDPOINT_URL_STS", stub.address)
    stub.behave = aws_stub.sts()


def assumed_role(bare: pytest.MonkeyPatch, stub: Stub, home: Path) -> None:
    (home / "config").write_text(f"[default]\nrole_arn = {ROLE}\nsource_profile = own\n")
    (home / "credentials").write_text(
        "[own]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = another\n"
    )
    bare.setenv("AWS_ENDPOINT_URL_STS", stub.address)
    stub.behave = aws_stub.sts()


def single_sign_on(bare: pytest.MonkeyPatch, stub: Stub, home: Path) -> None:
    """A login from an hour ago, which is renewed, after which credentials are requested."""
    (home / "config").write_text(
        "[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = kine\n"
        "[sso-session s]\nsso_region = eu-central-1\nsso_start_url = https://example.com\n"
        "sso_registration_scopes = sso:account:access\n"
    )
    logins = home / ".aws" / "sso" / "cache"
    logins.mkdir(parents=True)
    now = datetime.now(UTC)
    login = {
        "accessToken": "of an hour ago",
        "expiresAt": f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
        "region": "eu-central-1",
        "startUrl": "https://example.com",
        "clientId": "client",
        "clientSecret": "secret",
        "registrationExpiresAt": f"{now + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
        "refreshToken": "refresh",
    }
    (logins / f"{sha1(b's', usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(login))
    bare.setenv("AWS_ENDPOINT_URL_SSO", stub.address)
    bare.setenv("AWS_ENDPOINT_URL_SSO_OIDC", stub.address)
    stub.behave = aws_stub.single_sign_on()


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        (web_identity, ["/"]),
        (assumed_role, ["/"]),
        (single_sign_on, ["/token", "/federation/credentials"]),
    ],
    ids=["web identity", "assumed role", "single sign-on"],
)
def test_it_serves_with_credentials_from(
    source: Callable[[pytest.MonkeyPatch, Stub, Path], None],
    asked: list[str],
    bare: pytest.MonkeyPatch,
    gate: Gate,
    database: postgres.Postgres,
    tmp_path: Path,
) -> None:
    bare.setenv("HOME", str(tmp_path))
    bare.setenv("KINE_TEST_EXECUTABLE", str(executable()))
    with Stub(aws_stub.sts()) as stub:
        source(bare, stub, tmp_path)
        kine = start_kine(
            f"postgres://{USER}@127.0.0.1:{gate.port}/{database.new_database()}",
            "http2",
            tmp_path / "kine",
            flags=("--identity-provider=aws", f"--ca-file={tmp_path / 'ca.pem'}"),
        )
        with Client(kine.address) as client:
            client.put(b"/a", b"1")
        own = Path(f"/proc/{kine.process.pid}/exe").readlink()
        assert kine.stop() == 0

    assert os.path.basename(own) != "python3"
    assert {aws_stub.access_key(token) for token in gate.presented} == {sigv4.ACCESS_KEY}
    assert [each.path.partition("?")[0] for each in stub.asked][: len(asked)] == asked
