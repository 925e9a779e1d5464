"""The container image without Docker: its lock file, and its health check against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kine.address import Address
from kine.observe.metrics_server import MetricsServer
from kine.tls import Tls
from tests.client import Client
from tests.executable import BUSYBOX, Mount, Root, address, empty_root, executable, missing, musl_root
from tests.servers.kine import start_kine

ROOT = Path(__file__).parents[2]
EXTRAS = ("kerberos", "nats-embedded")  # every backend and both authentication methods


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
    shell, *words = json.loads(command)
    assert shell == "/bin/sh"
    return ["/bin/busybox", "sh", *[word.replace("/bin/wget", "/bin/busybox wget") for word in words]]


async def health(of: str) -> int:
    environment = os.environ | {"KINE_METRICS_BIND_ADDRESS": of}
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


def test_the_default_endpoint_is_where_go_kines_image_keeps_its_file() -> None:
    """./db/state.db, relative to the working directory /, in the volume that belongs to the image's user."""
    text = (ROOT / "Dockerfile.release").read_text()

    assert re.findall(r"^(?:WORKDIR|USER|VOLUME) .*$", text, re.MULTILINE) == [
        "WORKDIR /",
        "USER 65534:65534",
        "VOLUME /db",
    ]
    assert "KINE_ENDPOINT" not in text


# ---- the image, assembled without Docker by the steps of Dockerfile.release


@pytest.fixture(scope="module")
def image() -> Iterator[Root]:
    if missing() or os.geteuid() != 0 or not BUSYBOX.exists():
        pytest.skip(missing() or "needs root and busybox-static")
    with (
        tempfile.TemporaryDirectory(prefix="kine-image-", dir="/var/tmp") as path,
        empty_root(Path(path)) as root,
    ):
        script = ROOT / "release" / "image.sh"
        subprocess.run(["sh", script, path, executable()], check=True)
        root.directory("/proc")  # as the runtime mounts it
        yield root


def describe(path: Path) -> tuple[int, int, str]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.filemode(found.st_mode)


@pytest.mark.engines
@pytest.mark.timeout(600)
class TestAssembled:
    def test_it_holds_the_executable_and_a_shell(self, image: Root) -> None:
        assert {path.name for path in image.path.iterdir()} == {"bin", "db", "etc", "proc", "tmp"}
        names = {path.name for path in (image.path / "bin").iterdir()}
        assert names == {"busybox", "chmod", "cp", "kine", "sh", "wget"}
        assert describe(image.path / "db") == (65534, 65534, "drwxr-xr-x")
        assert describe(image.path / "bin" / "kine") == (0, 0, "-rwxr-xr-x")

    def test_its_layers_are_small(self, image: Root) -> None:
        """At most 60 MB; a release's executable is compressed better than a test's."""
        packed = subprocess.run(
            ["tar", "-C", image.path, "--exclude=./proc", "-cz", "."], capture_output=True, check=True
        )
        assert len(packed.stdout) < 60_000_000

    def test_a_volume_of_go_kines_is_served_by_the_default_endpoint(
        self, image: Root, tmp_path: Path
    ) -> None:
        """With the file at /db/state.db, as Go kine leaves it there."""
        volume = tmp_path / "volume"
        volume.mkdir()
        os.chown(volume, 65534, 65534)
        written = start_kine(f"sqlite://{volume}/state.db", "http2", volume)
        with Client(written.address) as client:
            client.put(b"/kept", b"1")
        assert written.stop() == 0
        for path in volume.iterdir():
            os.chown(path, 65534, 65534)

        flags = ["--listen-address=127.0.0.1:0", "--metrics-bind-address=0"]
        server = image.start(
            ["/bin/kine", *flags], mounts=[Mount("proc", "/proc"), Mount(str(volume), "/db")]
        )
        with Client(address(server)) as client:
            found = client.get(b"/kept")
        server.terminate()

        assert server.wait(60) == 0
        assert found is not None
        assert found.value == b"1"

    def test_the_executable_is_copied_alone(self, image: Root, tmp_path: Path) -> None:
        """COPY --from=kine /bin/kine /binaries/kine, into an image with another C library."""
        with (
            tempfile.TemporaryDirectory(prefix="kine-root-", dir="/var/tmp") as path,
            musl_root(Path(path)) as other,
        ):
            other.install(image.path / "bin" / "kine", "/binaries/kine")
            code, said, _ = other.run(["/binaries/kine", "--version"], mounts=[Mount("proc", "/proc")])
        assert code == 0
        assert said.startswith("kine version ")
