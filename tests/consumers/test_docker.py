"""Plain docker: the image's root with a volume at /db, also read-only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.consumers.conftest import IMAGE_TESTS
from tests.executable import Mount, Root, address, put_and_get

pytestmark = IMAGE_TESTS
FLAGS = ("--listen-address=127.0.0.1:0", "--metrics-bind-address=0")


@pytest.fixture
def image(image: Root) -> Root:
    image.directory("/proc")
    return image


@pytest.mark.parametrize("read_only", [False, True], ids=["", "--read-only --tmpfs=/tmp"])
def test_docker_run_with_a_volume(image: Root, tmp_path: Path, read_only: bool) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 65534, 65534)
    mounts = [Mount("proc", "/proc"), Mount(str(volume), "/db")]
    if read_only:
        mounts.append(Mount("tmpfs", "/tmp", "mode=1777"))
    kine = image.start(["/bin/kine", *FLAGS], mounts=mounts, read_only=read_only)
    put_and_get(address(kine))
    kine.terminate()
    assert kine.wait(60) == 0
    assert (volume / "state.db").exists()


def test_a_volume_of_another_owner_is_a_fatal_error_about_permissions(image: Root, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    code, _, errors = image.run(
        ["/bin/kine", *FLAGS], mounts=[Mount("proc", "/proc"), Mount(str(volume), "/db")]
    )
    assert code == 1
    assert "65534" in errors
