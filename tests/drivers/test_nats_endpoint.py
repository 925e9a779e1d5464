"""Forms of a NATS endpoint, and logging in with each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kine import drivers
from kine.drivers.base import Options
from kine.drivers.nats.endpoint import parse
from tests.databases import nats


def test_several_servers_and_parameters_of_the_first() -> None:
    found = parse("nats://a?noEmbed&bucket=b&replicas=3&revHistory=64,nats://b:5222", Options())
    assert found.servers == ("nats://a:4222", "nats://b:5222")
    assert (found.embedded, found.bucket, found.replicas, found.history) == (False, "b", 3, 64)


def test_which_endpoints_run_a_server() -> None:
    assert parse("nats://", Options()).embedded
    assert not parse("nats://?noEmbed", Options()).embedded
    assert not parse("jetstream://host", Options()).embedded


@pytest.mark.parametrize(
    "endpoint", ["jetstream://me:pw@a?bucket=b,nats://c", "jetstream://nats://me:pw@a?bucket=b,nats://c"]
)
def test_the_old_scheme_alone_and_as_go_kine_needs_it(endpoint: str) -> None:
    found = parse(endpoint, Options())
    assert (found.embedded, found.servers, found.bucket) == (False, ("nats://a:4222", "nats://c:4222"), "b")
    assert found.login == {"user": "me", "password": "pw"}


@pytest.mark.parametrize(
    "parameters", ["replicas=6", "revHistory=1", "slowMethod=soon", "bucket=a.b", "unheard=1"]
)
def test_what_cannot_be_is_refused_without_the_password(parameters: str) -> None:
    with pytest.raises(ValueError, match="endpoint") as refused:
        parse(f"nats://me:s3cret@host?{parameters}", Options())
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("address", ["host", "host:4222", ":4222", "0.0.0.0"])
def test_embedded_server_that_others_find_needs_a_login(address: str) -> None:
    with pytest.raises(ValueError, match="needs a login"):
        parse(f"nats://{address}?dataDir=/d", Options())
    assert parse(f"nats://token@{address}?dataDir=/d", Options()).listens
    for parameters in ("noEmbed", "dontListen", "serverConfig=/c"):
        assert parse(f"nats://{address}?{parameters}", Options())


def test_the_password_is_not_shown() -> None:
    assert "s3cret" not in repr(parse("nats://me:s3cret@host", Options()))


def test_a_context_file(tmp_path: Path) -> None:
    path = tmp_path / "context.json"
    path.write_text(json.dumps({"url": "nats://a:1,nats://b:2", "user": "me", "password": "s3cret"}))
    found = parse(f"nats://?contextFile={path}", Options())
    assert found.servers == ("nats://a:1", "nats://b:2")
    assert found.login == {"user": "me", "password": "s3cret"}
    with pytest.raises(ValueError, match="no host"):
        parse(f"nats://host?contextFile={path}", Options())


@pytest.mark.parametrize("name", ["credsFile", "contextFile"])
def test_a_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "there is none"
    with pytest.raises(ValueError, match=f"^{name} in the endpoint, {path}: No such file"):
        parse(f"nats://?{name}={path}&noEmbed", Options())
    path.mkdir()
    with pytest.raises(ValueError, match=f"^{name} in the endpoint, {path}: Is a directory"):
        parse(f"nats://?{name}={path}&noEmbed", Options())


@pytest.mark.skipif(bool(nats.missing()), reason=nats.missing() or "-")
@pytest.mark.parametrize(
    ("configured", "account"),
    [("{ user: me, password: s3cret }", "me:s3cret"), ("{ token: s3cret }", "s3cret")],
)
async def test_logging_in(configured: str, account: str) -> None:
    server = nats.Nats(1, f"authorization {configured}")
    log = drivers.connect(f"nats://{account}@127.0.0.1:{server.port}?noEmbed", Options())
    try:
        await log.open()
        assert await log.newest() == 0
    finally:
        await log.close()
        server.stop()
