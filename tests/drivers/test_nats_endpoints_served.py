"""Connecting to NATS: TLS, credentials, contexts, several servers, and the embedded server's own settings."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nats.errors
import nkeys
import pytest
import trustme
from nats.aio.client import Client as Connection

from kine import drivers
from kine.drivers.base import DriverError, InvalidKeyError, Log, Options, UnavailableError
from kine.drivers.nats.client import NatsClient
from kine.drivers.nats.endpoint import parse
from kine.drivers.nats.log import NatsLog
from tests.certificates import write_authority, write_pair
from tests.databases import nats as databases
from tests.databases.process import free_port
from tests.drivers.row_shorthand import created, write

pytestmark = pytest.mark.skipif(bool(databases.missing()), reason=databases.missing() or "-")

StartServer = Callable[..., databases.Nats]


@pytest.fixture
def start() -> Iterator[StartServer]:
    started: list[databases.Nats] = []

    def server(*lines: str) -> databases.Nats:
        started.append(databases.Nats(1, *lines))
        return started[-1]

    yield server
    for one in started:
        one.stop()


@asynccontextmanager
async def opened(endpoint: str, options: Options | None = None) -> AsyncIterator[Log]:
    log = drivers.connect(endpoint, options or Options())
    try:
        await log.open()
        yield log
    finally:
        await log.close()


async def writes(log: Log) -> bool:
    [ids] = await log.append([write(created(b"/a"))], await log.newest())
    return ids is not None


async def refusal(endpoint: str, options: Options, monkeypatch: pytest.MonkeyPatch) -> str:
    """The error of a client whose login fails; a start would retry for minutes."""
    monkeypatch.setattr("kine.drivers.nats.client._CONNECT_TIMEOUT", 3.0)
    parsed = parse(endpoint, options)
    client = NatsClient(parsed)
    with pytest.raises(UnavailableError) as refused:
        await client.connect(parsed.servers)
    await client.close()
    return str(refused.value)


# ---- TLS


async def test_tls_of_the_backend_flags(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    ca, others = write_authority(tmp_path, authority), write_authority(tmp_path, stranger, "others")
    cert, key = write_pair(tmp_path, authority)
    server = start(f'tls {{ cert_file: "{cert}", key_file: "{key}", ca_file: "{ca}", verify: true }}')
    endpoint = server.endpoint("kine")
    async with opened(endpoint, Options(ca_file=ca, cert_file=cert, key_file=key)) as log:
        assert await writes(log)
    async with opened(endpoint, Options(skip_verify=True, cert_file=cert, key_file=key)) as log:
        assert await log.newest() == 1
    told = await refusal(endpoint, Options(ca_file=others, cert_file=cert, key_file=key), monkeypatch)
    assert "unable to get local issuer certificate" in told


# ---- logging in


def key_pair(prefix: int) -> nkeys.KeyPair:
    return nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))


def public(keys: nkeys.KeyPair) -> str:
    return bytes(keys.public_key).decode()


def token(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, kind: str, **claims: Any) -> str:
    """A JWT as the nsc tool issues them."""

    def part(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {
        "jti": "kine", "iat": 1, "iss": public(issuer), "sub": public(subject), "name": kind,
        "nats": {"type": kind, "version": 2, **claims},
    }  # fmt: skip
    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(body).encode())}"
    return f"{signed}.{part(issuer.sign(signed.encode()))}"


def credentials(path: Path, user_token: str, seed: bytes) -> Path:
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return path


async def test_a_credentials_file_by_itself_and_in_a_context(
    start: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, account, user = map(
        key_pair, (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    )
    limited = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage")
    limits = {**dict.fromkeys((*limited, "streams", "consumer"), -1), "wildcards": True}
    accounts = token(operator, account, "account", limits=limits)
    system = key_pair(nkeys.PREFIX_BYTE_ACCOUNT)
    system_token = token(operator, system, "account", limits=dict.fromkeys(limited[:7], -1))
    server = start(
        f"operator: {token(operator, operator, 'operator')}",
        f"system_account: {public(system)}",
        "resolver: MEMORY",
        f"resolver_preload {{ {public(account)}: {accounts}, {public(system)}: {system_token} }}",
    )
    users = token(account, user, "user", subs=-1, data=-1, payload=-1)
    path = credentials(tmp_path / "kine.creds", users, bytes(user.seed))
    address = f"127.0.0.1:{server.port}"
    async with opened(f"nats://{address}?noEmbed&credsFile={path}") as log:
        assert await writes(log)
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"url": f"nats://{address}", "creds": str(path)}))
    async with opened(f"nats://?contextFile={context}") as log:
        assert await log.newest() == 1
    other = key_pair(nkeys.PREFIX_BYTE_USER)
    forged = credentials(tmp_path / "forged.creds", users, bytes(other.seed))
    told = await refusal(f"nats://{address}?noEmbed&credsFile={forged}", Options(), monkeypatch)
    assert "authorization violation" in told.lower()


# ---- which server


async def test_the_first_of_several_servers_is_dead(start: StartServer) -> None:
    server = start()
    async with opened(f"nats://127.0.0.1:{free_port()}?noEmbed,nats://127.0.0.1:{server.port}") as log:
        assert await writes(log)


async def test_a_server_too_old_for_batches_is_told(
    start: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(start().endpoint("kine")) as log:
        monkeypatch.setattr(NatsClient, "version", (2, 11))
        with pytest.raises(InvalidKeyError, match=r"nats-server 2\.12"):
            await log.append([write(created(b"/a"), created(b"/b"))], 0)
        assert await log.newest() == 0
        assert await writes(log)


# ---- the embedded server


def embedded(log: Log) -> str:
    assert isinstance(log, NatsLog)
    assert log._server is not None
    return log._server.url


async def test_with_dont_listen_nobody_else_gets_in(tmp_path: Path) -> None:
    async with opened(f"nats://?dataDir={tmp_path}&dontListen") as log:
        assert await writes(log)
        stranger = Connection()
        with pytest.raises((nats.errors.Error, OSError)):
            await stranger.connect(embedded(log), allow_reconnect=False, connect_timeout=2)


async def test_a_configuration_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.conf"
    config.write_text(
        f"server_name: mine\njetstream {{ store_dir: {json.dumps(str(tmp_path / 'there'))} }}\n"
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # for files that are kept with the data
    async with opened(f"nats://?serverConfig={config}") as log:
        assert await writes(log)
        assert (tmp_path / "there" / "jetstream").is_dir()
        client = Connection()
        await client.connect(embedded(log))
        assert client._server_info["server_name"] == "mine"
        await client.close()


async def test_a_configuration_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "server.conf"
    config.write_text("listen {")
    with pytest.raises(DriverError, match="its log is"):
        async with opened(f"nats://?dataDir={tmp_path}&serverConfig={config}"):
            pass
    assert "Parse error" in (tmp_path / "nats-server.log").read_text()


async def test_a_port_in_use_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(DriverError, match="its log is"):
        async with opened(f"nats://me:pw@127.0.0.1:{taken.getsockname()[1]}?dataDir={tmp_path}"):
            pass


@pytest.mark.parametrize("login", ["me:p%22w%5C$d", "t0ken"])
async def test_with_a_host_others_need_the_endpoints_login(tmp_path: Path, login: str) -> None:
    async with opened(f"nats://{login}@127.0.0.1:{free_port()}?dataDir={tmp_path}") as log:
        assert await writes(log)
        stranger = Connection()
        with pytest.raises((nats.errors.Error, OSError)):
            await stranger.connect(embedded(log), allow_reconnect=False, connect_timeout=2)
        friend = Connection()
        user, colon, password = unquote(login).partition(":")
        shown = {"user": user, "password": password} if colon else {"token": user}
        await friend.connect(embedded(log), allow_reconnect=False, **shown)
        await friend.close()


@pytest.mark.parametrize("made", ["by all", "link", "file"])
async def test_default_directory_that_others_may_have_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = tmp_path / "nats"
    if made == "by all":
        place.mkdir()
        place.chmod(0o777)
    elif made == "link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.write_text("")
    with pytest.raises(DriverError, match="name a directory of kine's own"):
        async with opened("nats://"):
            pass


async def test_default_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "nats").mkdir(mode=0o700)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(DriverError, match="another user's"):
        async with opened("nats://"):
            pass


async def test_default_directory_is_made_this_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "nats").mkdir(mode=0o755)  # as Go kine leaves it
    async with opened("nats://") as log:
        assert await writes(log)
        assert (tmp_path / "nats").stat().st_mode & 0o777 == 0o700
