"""The image's parts that need no Docker: its lock file, and its health check against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import trustme
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kine.forms import Address
from kine.observe.http import MetricsServer
from kine.transport.base import Tls

ROOT = Path(__file__).parents[2]
EXTRAS = ("kerberos", "nats-embedded")  # every backend and both ways to log in


def locked() -> dict[str, Requirement]:
    text = (ROOT / "release" / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in lines if "--hash=sha256:" not in line] == []
    found = [Requirement(line.split(" --hash")[0]) for line in lines]
    return {canonicalize_name(one.name): one for one in found}


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [Requirement(one) for one in project["dependencies"] + [r for e in EXTRAS for r in extras[e]]]


@pytest.mark.parametrize("wish", wanted(), ids=str)
def test_lock_satisfies_the_project(wish: Requirement) -> None:
    pin = locked()[canonicalize_name(wish.name)]

    [version] = [one.version for one in pin.specifier]
    assert wish.specifier.contains(version)
    linux = dict(default_environment(), sys_platform="linux", platform_system="Linux")
    assert pin.marker is None or pin.marker.evaluate(linux)


def health_check() -> list[str]:
    text = (ROOT / "Dockerfile.release").read_text()
    [command] = re.findall(r"^HEALTHCHECK [^\n]*\\\n +CMD (\[.*\])$", text, re.MULTILINE)
    return [sys.executable, *json.loads(command)[1:]]


async def health(address: str) -> int:
    environment = os.environ | {"KINE_METRICS_BIND_ADDRESS": address}
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*health_check(), env=environment, stderr=quiet)
    return await process.wait()


async def ready() -> str:
    return ""


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_health_check_asks_the_running_server(tmp_path: Path, secure: bool) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    tls = Tls(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")) if secure else None
    server = MetricsServer(Address("127.0.0.1", 0), ready, tls)
    port = (await server.start()).rpartition(":")[2]

    assert await health(f":{port}") == 0
    assert await health(f"127.0.0.1:{port}") == 0
    await server.stop()
    assert await health(f":{port}") == 1


async def test_health_check_is_content_where_metrics_are_off() -> None:
    assert await health("0") == 0
