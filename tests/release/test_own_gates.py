"""This repository's own workflows, run on a clone of it: a tag, a line cut from it, its releases.

A base tag v0.17.5 is on the trunk, the line is cut from it, and a release of the line produces a wheel and
the image's build context, both with the tag's version.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.release.workflow_runner import Event, Result, path_with, play

ROOT = Path(__file__).parents[2]
LINE = "release/vcluster/v0.17.5"
NEXT = "release/vcluster/v0.17.6"
DIGEST = "sha256:" + "ab" * 32

# Each runs dozens of steps in fresh clones, and builds and installations need the package index.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(1200)]


@dataclass
class Fork:
    """The remote, a clone to work in, and a way to run its workflows."""

    origin: Path
    work: Path
    place: Path
    stubs: Path
    called: Path
    runs: int = 0

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *arguments],
            cwd=self.work, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sha(self, revision: str) -> str:
        return self.git("rev-parse", f"{revision}^{{commit}}")

    def commit(self, subject: str, path: str, text: str) -> str:
        (self.work / path).parent.mkdir(parents=True, exist_ok=True)
        (self.work / path).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.sha("HEAD")

    def forktools(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "forktools", *arguments],
            cwd=self.work, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, workflow: str, event: Event) -> Result:
        self.runs += 1
        environment = {
            "PATH": path_with(self.stubs),
            "HOME": str(self.place),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        actions = {"docker/build-push-action@": image_context}
        path = ROOT / ".github/workflows" / workflow
        return play(path, event, self.origin, self.place / str(self.runs), environment, actions)

    def pull_request(self, base: str, head: str) -> Event:
        self.git("push", "--quiet", "--force", "origin", f"{head}:refs/pull/7/head")
        sides = {"base": {"ref": base, "sha": self.sha(f"origin/{base}")}, "head": {"sha": self.sha(head)}}
        payload = {
            "pull_request": {"number": 7, "title": self.git("log", "-1", "--format=%s", head), **sides}
        }
        return Event("pull_request_target", f"refs/heads/{base}", sides["base"]["sha"], payload)

    def push(self, ref: str) -> Event:
        return Event("push", ref, self.sha(ref.replace("refs/heads/", "origin/")), {})


def image_context(workspace: Path, given: dict[str, str]) -> dict[str, str]:
    """The build context that docker would get: the files of Dockerfile.release's COPY, and the version."""
    text = (workspace / given["file"]).read_text()
    context = workspace.parent / "context"
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            there = context / target.lstrip("/") / ("" if target.endswith("/") else ".")
            if (workspace / source).is_dir():
                shutil.copytree(workspace / source, there, dirs_exist_ok=True)
            else:
                there.mkdir(parents=True, exist_ok=True)
                shutil.copy(workspace / source, there)
    (context / "arguments").write_text(given["build-args"])
    return {"digest": DIGEST}


def stub(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's current commit as the `main` of a remote."""
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    if shallow != "false":
        pytest.skip("this is no clone with its history")
    origin = tmp_path_factory.mktemp("origin") / "kine.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", origin], check=True)
    subprocess.run(["git", "push", "--quiet", origin, "HEAD:refs/heads/main"], cwd=ROOT, check=True)
    return origin


@pytest.fixture
def fork(start: Path, tmp_path: Path) -> Fork:
    origin = tmp_path / "kine.git"
    shutil.copytree(start, origin)
    subprocess.run(["git", "clone", "--quiet", origin, tmp_path / "work"], check=True)
    stubs, called = tmp_path / "stubs", tmp_path / "called"
    stubs.mkdir()
    called.touch()
    for name in ("make", "updatecli", "gh", "sudo"):
        stub(stubs / name, f'echo "{name} $*" >> "{called}"')
    # For an image named by its digest, a registry returns the same digest.
    stub(stubs / "docker", f'all="$*"; case "$all" in *@*) echo "${{all##*@}}" ;; *) echo {DIGEST} ;; esac')
    return Fork(origin, tmp_path / "work", tmp_path, stubs, called)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the packages of the build requirements' lock."""
    place = tmp_path_factory.mktemp("builder")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    lock = ROOT / "release/build-requirements.lock"
    install = [place / "bin/pip", "install", "--quiet", "--require-hashes", "--requirement", lock]
    subprocess.run(install, check=True)
    return place / "bin/python"


def stand_in(fork: Fork, builder: Path | None = None) -> None:
    """Stubs: forktools runs from the tree to be installed; of a release's files only the wheel is built."""
    tool = f'exec "{sys.executable}" -P -m forktools "$@"'
    build = f'"{builder}" -m build --quiet --no-isolation --wheel --outdir dist .' if builder else ":"
    stub(
        fork.stubs / "bash",
        f"""case "$1" in
*release/forktools.sh)
  mkdir -p "$2/bin"
  tree=$(realpath "$(dirname "$1")/..")
  printf '#!/bin/sh\\nexport PYTHONPATH="%s"\\n%s\\n' "$tree" '{tool}' > "$2/bin/forktools"
  chmod +x "$2/bin/forktools" ;;
release/build.sh)
  mkdir dist
  {build} ;;
*) exec /bin/bash "$@" ;;
esac""",
    )


def cut(fork: Fork) -> None:
    """Creates the base tag, the line from it, and the line's first commit."""
    fork.git("tag", "v0.17.5", "main")
    fork.git("push", "--quiet", "origin", "v0.17.5")
    fork.git("switch", "--quiet", "--create", LINE, "v0.17.5")
    fork.commit("feat(fork): ours", "kine/ours.py", '"""Ours."""\n')
    fork.git("push", "--quiet", "origin", LINE)


def test_a_line_is_cut_carried_on_and_its_tags_pass(fork: Fork) -> None:
    """Every gate passes valid changes and fails invalid ones, in fresh clones."""
    stand_in(fork)
    cut(fork)
    assert not fork.run("version-policy.yaml", fork.push("refs/tags/v0.17.5")).red
    assert not fork.run("replay-policy.yml", fork.push(f"refs/heads/{LINE}")).red

    fork.git("switch", "--quiet", "--create", "topic", LINE)
    fork.commit("fix(fork): a bug", "kine/ours.py", '"""Ours, mended."""\n')
    assert not fork.run("fork-policy.yml", fork.pull_request(LINE, "topic")).red
    assert fork.run("fork-policy.yml", fork.pull_request("main", "topic")).red
    fork.git("push", "--quiet", "origin", f"topic:{LINE}")
    fork.git("fetch", "--quiet")

    fork.git("switch", "--quiet", "main")
    fork.commit("feat: as upstream's v0.17.6", "kine/theirs.py", '"""Theirs."""\n')
    fork.git("tag", "v0.17.6")
    fork.git("push", "--quiet", "origin", "main", "v0.17.6")
    fork.git("branch", NEXT, "v0.17.6")
    fork.git("push", "--quiet", "origin", NEXT)
    assert fork.run("replay-policy.yml", fork.push(f"refs/heads/{NEXT}")).red  # it carries no commits
    fork.git("branch", "--delete", "--force", NEXT)
    fork.git("push", "--quiet", "origin", "--delete", NEXT)
    fork.forktools("replay", "apply", "--to", "v0.17.6", "--yes")
    fork.git("push", "--quiet", "--force", "origin", NEXT)
    assert not fork.run("replay-policy.yml", fork.push(f"refs/heads/{NEXT}")).red

    tag = fork.forktools("next-tag", "--line", "v0.17.6").strip()
    fork.git("tag", tag, f"origin/{NEXT}")
    fork.git("push", "--quiet", "origin", tag)
    assert tag == "v0.17.6.vcluster.0"
    assert not fork.run("version-policy.yaml", fork.push(f"refs/tags/{tag}")).red
    assert not fork.run("audit.yml", Event("schedule", "refs/heads/main", fork.sha("main"), {})).red
    fork.git("tag", "v0.17.6.vcluster.1", "main")
    fork.git("push", "--quiet", "origin", "v0.17.6.vcluster.1")
    assert fork.run("version-policy.yaml", fork.push("refs/tags/v0.17.6.vcluster.1")).red
    assert fork.run("audit.yml", Event("schedule", "refs/heads/main", fork.sha("main"), {})).red


def test_a_release_of_the_line_is_built_with_its_version(fork: Fork, builder: Path) -> None:
    stand_in(fork, builder)
    cut(fork)
    tag = "v0.17.5.vcluster.0"
    fork.git("tag", tag, LINE)
    fork.git("push", "--quiet", "origin", tag)
    pushed = fork.push(f"refs/tags/{tag}")

    built = fork.run("release.yaml", pushed)
    assert built.jobs == {"policy": "skipped", "image": "success"}
    context = built.workspaces["image"].parent / "context"
    assert f"VERSION={tag}" in (context / "arguments").read_text()
    of_image = wheel(builder, context / "src", fork.place / "of-image", tag)
    assert version_of(of_image) == "0.17.5+vcluster.0"

    waiting = Event(pushed.name, pushed.ref, pushed.sha, {}, {"RELEASE_WAITS_FOR_POLICY": "true"})
    assert fork.run("release.yaml", waiting).jobs == {"policy": "success", "image": "success"}
    assert fork.run("version-policy.yaml", waiting).jobs == {"tag": "skipped"}

    released = Event("release", pushed.ref, pushed.sha, {"release": {"tag_name": tag}})
    files = fork.run("release.yml", released)
    assert (files.jobs["policy"], files.jobs["files"]) == ("success", "success")
    dist = files.workspaces["files"] / "dist"
    assert (dist / "kine.cdx.json").stat().st_size > 1000
    [made] = dist.glob("*.whl")
    assert made.name.startswith("kine_etcd-0.17.5+vcluster.0-")
    assert version_of(made) == "0.17.5+vcluster.0"


def test_a_tag_that_is_refused_gets_no_image_where_the_build_waits_and_no_files(fork: Fork) -> None:
    stand_in(fork)
    cut(fork)
    fork.git("tag", "v0.17.5.vcluster.3", LINE)  # the next one is 0
    fork.git("push", "--quiet", "origin", "v0.17.5.vcluster.3")
    pushed = fork.push("refs/tags/v0.17.5.vcluster.3")

    assert fork.run("version-policy.yaml", pushed).red
    assert fork.run("release.yaml", pushed).jobs == {"policy": "skipped", "image": "success"}  # in parallel
    waiting = Event(pushed.name, pushed.ref, pushed.sha, {}, {"RELEASE_WAITS_FOR_POLICY": "true"})
    assert fork.run("release.yaml", waiting).jobs == {"policy": "failure", "image": "skipped"}
    files = fork.run("release.yml", Event("release", pushed.ref, pushed.sha, {}))
    assert files.jobs.pop("policy") == "failure"
    assert set(files.jobs.values()) == {"skipped"}


def test_the_other_workflows_run(fork: Fork) -> None:
    """The scheduled workflows and those of every push, with each of their steps."""
    stand_in(fork)
    cut(fork)
    fork.git("switch", "--quiet", "main")
    fork.commit("fix: what the line lacks", "kine/theirs.py", '"""Mended."""\n')
    fork.git("push", "--quiet", "origin", "main")
    main = fork.push("refs/heads/main")
    clock = Event("schedule", main.ref, main.sha, {})

    for workflow, event in (
        ("lint.yml", main), ("test.yml", main), ("updatecli.yml", clock), ("backports.yml", clock)
    ):  # fmt: skip
        result = fork.run(workflow, event)
        assert not result.red, workflow
        jobs = yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text())["jobs"]
        assert set(result.steps) == {
            (name, step["name"]) for name, job in jobs.items() for step in job["steps"] if "run" in step
        }
    called = fork.called.read_text()
    assert "make lint types" in called
    assert f"gh issue create --repo loft-sh/kine --title Backports: {LINE}" in called


def test_a_gate_installs_forktools_without_the_server(fork: Fork) -> None:
    cut(fork)
    assert not fork.run("version-policy.yaml", fork.push("refs/tags/v0.17.5")).red
    [tool] = fork.place.glob("*/tag/temp/tool")
    listed = subprocess.run(
        [tool / "bin/pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"^kine-forktools==0\.0\.dev0\+g[0-9a-f]{12}$", listed, re.MULTILINE)
    assert "grpcio" not in listed
    assert "kine-etcd" not in listed


def wheel(builder: Path, source: Path, target: Path, tag: str) -> Path:
    """The wheel built from sources as docker has them: without a repository."""
    subprocess.run(
        [builder, "-m", "build", "--quiet", "--no-isolation", "--wheel", "--outdir", target, source],
        env={"PATH": "/usr/bin:/bin", "KINE_VERSION": tag}, check=True,
    )  # fmt: skip
    [made] = target.glob("*.whl")
    return made


def version_of(made: Path) -> str:
    with zipfile.ZipFile(made) as archive:
        [name] = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        found = re.search(r"^Version: (.*)$", archive.read(name).decode(), re.MULTILINE)
    assert found
    return found[1]
