"""The version of a release: from its tag into the wheel, and printed in the tag's form."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.version import Version

from forktools import build_version
from kine.version import shown
from tests.databases.process import free_port
from tests.servers.kine import start_kine

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(build_version.VARIABLE, raising=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    path = tmp_path / "kine"
    path.mkdir()
    git(path, "init", "--quiet")
    (path / "a").write_text("a")
    git(path, "add", "a")
    git(path, "commit", "--quiet", "--message", "a")
    return path


def git(path: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "tag.gpgSign=false")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=path, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v0.16.4.vcluster.0", "0.16.4+vcluster.0"),
        ("v0.16.4.vcluster.12", "0.16.4+vcluster.12"),
        ("v0.17.5", "0.17.5"),
        ("v1.2.3-fork.4", "1.2.3+fork.4"),
    ],
)
def test_a_tag_is_a_version_and_back(tag: str, version: str) -> None:
    assert build_version.of_tag(tag) == version == str(Version(version))
    assert shown(version) == tag.replace("-", ".")


@pytest.mark.parametrize("tag", ["0.16.4", "v0.16", "v0.16.4.", "v0.16.4 ", "nightly", "v0.16.4.vCluster.0"])
def test_another_tag_is_none(tag: str) -> None:
    assert build_version.of_tag(tag) is None


def test_the_tag_of_the_commit_is_the_version(sources: Path) -> None:
    git(sources, "tag", "v1.2.3")
    assert build_version.version(sources) == "1.2.3"
    git(sources, "tag", "v1.2.3.vcluster.9")
    git(sources, "tag", "v1.2.3.vcluster.10")
    assert build_version.version(sources) == "1.2.3+vcluster.10"


def test_an_untagged_build_shows_its_commit(sources: Path) -> None:
    sha = git(sources, "rev-parse", "HEAD")
    found = build_version.version(sources)

    assert str(Version(found)) == found
    assert shown(found) == f"dev-{sha[:12]}"


def test_changes_that_are_in_no_commit_are_no_release(sources: Path) -> None:
    git(sources, "tag", "v1.2.3.vcluster.0")
    (sources / "a").write_text("b")

    assert shown(build_version.version(sources)).endswith("-dirty")


def test_sources_in_somebody_elses_repository_do_not_take_its_tag(sources: Path) -> None:
    git(sources, "tag", "v1.2.3")
    (sources / "vendored").mkdir()

    assert shown(build_version.version(sources / "vendored")) == "dev"


def test_an_archive_keeps_the_version_it_was_made_with(sources: Path) -> None:
    (sources / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: kine-etcd\nVersion: 1.2.3+vcluster.4\n")
    assert build_version.version(sources) == "1.2.3+vcluster.4"


@pytest.mark.parametrize(
    ("given", "version"),
    [("v1.2.3.vcluster.0", "1.2.3+vcluster.0"), (COMMIT, f"0.0.dev0+g{COMMIT[:12]}")],
)
def test_where_there_is_no_repository_the_variable_says_it(
    sources: Path, monkeypatch: pytest.MonkeyPatch, given: str, version: str
) -> None:
    monkeypatch.setenv(build_version.VARIABLE, given)
    assert build_version.version(sources) == version


def test_a_variable_that_is_no_tag_stops_the_build(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build_version.VARIABLE, "1.2.3")
    with pytest.raises(ValueError, match=r"KINE_VERSION=1\.2\.3 is not a release tag such as v0\.16\.4"):
        build_version.version(sources)


def test_both_packages_ask_for_it() -> None:
    for file in (ROOT / "pyproject.toml", ROOT / "forktools" / "pyproject.toml"):
        project = tomllib.loads(file.read_text())
        assert project["project"]["dynamic"] == ["version"]
        assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == (
            "forktools.build_version.VERSION"
        )


def test_forktools_alone_asks_for_what_it_needs() -> None:
    """forktools requires those of the project's dependencies that it imports; the lock has their hashes."""
    alone = tomllib.loads((ROOT / "forktools" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(alone) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    imported = {
        word
        for file in (ROOT / "forktools").glob("*.py")
        for word in re.findall(r"^(?:import|from) (\w+)(?: import|$|\.)", file.read_text(), re.MULTILINE)
    } - sys.stdlib_module_names
    named = {"gitpython": "git"}
    assert imported - {"forktools"} == {
        named.get(name, name) for one in alone for name in re.findall(r"^[a-z-]+", one)
    }
    lock = (ROOT / "release" / "forktools.lock").read_text().replace("\\\n", " ")
    pins = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in pins if "--hash=sha256:" not in line] == []
    assert {line.split("==")[0] for line in pins} >= {re.split("[>=]", one)[0] for one in alone}


def test_image_has_no_forktools_or_has_git() -> None:
    text = (ROOT / "Dockerfile.release").read_text()
    assert re.search(r"install [^&]*\bgit\b", text) or "FROM scratch" in text


def test_image_is_told_its_version() -> None:
    text = (ROOT / "Dockerfile.release").read_text()
    assert "KINE_VERSION" in text.split("\nFROM ")[1]


def test_a_running_server_tells_its_release(tmp_path: Path) -> None:
    """In its metrics and in `kine status`, in the form of `kine --version`."""
    address = f"127.0.0.1:{free_port()}"
    server = start_kine("sqlite://state.db", "http2", tmp_path, flags=(f"--metrics-bind-address={address}",))
    try:
        kine = [sys.executable, "-m", "kine"]
        printed = subprocess.run([*kine, "--version"], capture_output=True, text=True, check=True).stdout
        release = printed.removeprefix("kine version ").strip()
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            assert f'kine_build_info{{version="{release}"}} 1.0' in answer.read().decode()
        asked = [
            *kine,
            "status",
            "--endpoint",
            f"http://{server.address}",
            "--metrics",
            f"http://{address}",
            "-o",
            "json",
        ]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        assert json.loads(said)["kine_version"] == release
    finally:
        server.stop()
