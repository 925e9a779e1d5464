"""The policy as a table: a pull request of one commit into a branch, and the rules it breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forktools.settings import DEFAULTS
from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import DELETED, Changes, History, Link, Symlink

PRODUCT_TYPES, TOOLING_TYPES, TYPES = DEFAULTS.product_types, DEFAULTS.tooling_types, DEFAULTS.types
LINE = "release/vcluster/v0.16.3"
CODE: Changes = {"kine/server.py": "changed\n"}
CI: Changes = {".github/workflows/tests.yml": "on: push\n"}

PRODUCT = [("product-on-trunk", None)]
FREE: list[tuple[str, str | None]] = []


def outside(*paths: str) -> list[tuple[str, str | None]]:
    return [("path-outside-allowlist", path) for path in paths]


@pytest.mark.parametrize("base", ["main", "master"])
@pytest.mark.parametrize("kind", PRODUCT_TYPES)
def test_product_commit_of_the_fork_is_refused_on_the_trunk(
    history: History, check: Callable[..., Result], base: str, kind: str
) -> None:
    history.branch("master", "main")
    history.commit(f"{kind}(fork): something", CI, on="work", parents=["main"])

    result = check(history, base)

    assert result.rules == PRODUCT
    assert result.status == 1


@pytest.mark.parametrize("base", ["main", "master"])
@pytest.mark.parametrize("kind", TOOLING_TYPES)
def test_tooling_commit_within_the_allowlist_passes_on_the_trunk(
    history: History, check: Callable[..., Result], base: str, kind: str
) -> None:
    history.branch("master", "main")
    history.commit(f"{kind}(fork): something", CI, on="work", parents=["main"])

    result = check(history, base)

    assert result.rules == FREE
    assert result.status == 0


TRUNK_ROWS = [
    ("ci(fork): x", {".github/x": "1"}, FREE),
    ("ci(fork): x", {".github/deep/er/x": "1"}, FREE),
    ("ci(fork): x", {"updatecli/x.yaml": "1"}, FREE),
    ("docs(fork): x", {"docs/x.md": "1"}, FREE),
    ("docs(fork): x", {"README.md": "1"}, FREE),
    ("docs(fork): x", {"CONTRIBUTING.md": "1"}, FREE),
    ("build(fork): x", {"Dockerfile.release": "1"}, FREE),
    ("chore(fork): x", {".golangci.json": "1"}, FREE),
    ("ci(fork)!: x", {".github/x": "1"}, FREE),
    ("ci(fork): x", {}, FREE),
    ("ci(fork): x", CODE, outside("kine/server.py")),
    ("ci(fork)!: x", CODE, outside("kine/server.py")),
    ("ci(fork): x", {"kine/server.py": DELETED}, outside("kine/server.py")),
    ("ci(fork): x", {".github/x": "1"} | CODE, outside("kine/server.py")),
    ("ci(fork): x", {"a": "1", "b": "1", "docs/c": "1"}, outside("a", "b")),
    ("ci(fork): x", {"Makefile": "1"}, outside("Makefile")),
    ("ci(fork): x", {"Dockerfile": "1"}, outside("Dockerfile")),
    ("ci(fork): x", {"Dockerfile.release.bak": "1"}, outside("Dockerfile.release.bak")),
    ("ci(fork): x", {"kine/README.md": "1"}, outside("kine/README.md")),
    ("ci(fork): x", {"kine/docs/x": "1"}, outside("kine/docs/x")),
    ("ci(fork): x", {"docs.md": "1"}, outside("docs.md")),
    ("ci(fork): x", {"docsx/y": "1"}, outside("docsx/y")),
    ("ci(fork): x", {"Docs/y": "1"}, outside("Docs/y")),
    ("ci(fork): x", {".githubx": "1"}, outside(".githubx")),
    ("ci(fork): x", {"docs": Symlink("kine")}, outside("docs")),
    ("ci(fork): x", {"vendored": Link("1" * 40)}, outside("vendored")),
    ("ci(fork): x", {".gitmodules": "x", "docs/sub": Link("1" * 40)}, outside(".gitmodules")),
    ("ci(fork): rename out", {"README.md": DELETED, "NOTES.md": "kine\n"}, outside("NOTES.md")),
    (
        "ci(fork): rename in",
        {"kine/server.py": DELETED, "docs/server.py": "one\ntwo\nthree\n"},
        outside("kine/server.py"),
    ),
    ("ci(fork): rename within", {"README.md": DELETED, "docs/README.md": "kine\n"}, FREE),
    ("feat: upstream's own", CODE, FREE),
    ("feat(server): upstream's own", CODE, FREE),
    ("Bump something from 1 to 2", CODE, FREE),
    ("feat(forks): another scope", CODE, FREE),
    ("feat(fork): x", CODE, PRODUCT),
    ("feat(fork)!: x", {}, PRODUCT),
    ("Feat(fork): x", CODE, [("nearly-fork", None)]),
    ("feat(Fork): x", CODE, [("nearly-fork", None)]),
    ("feat (fork): x", CODE, [("nearly-fork", None)]),
    ("feat( fork ): x", CODE, [("nearly-fork", None)]),
    ("feat(fork):x", CODE, [("nearly-fork", None)]),
    ("feature(fork): x", CODE, [("nearly-fork", None)]),
    ("feat(fork/aws): x", CODE, [("nearly-fork", None)]),
]


@pytest.mark.parametrize(("subject", "changes", "rules"), TRUNK_ROWS)
def test_trunk(
    history: History,
    check: Callable[..., Result],
    subject: str,
    changes: Changes,
    rules: list[tuple[str, str | None]],
) -> None:
    history.commit(subject, changes, on="work", parents=["main"])

    result = check(history)

    assert result.rules == rules
    assert result.status == int(any(rule != "nearly-fork" for rule, _ in rules))


UNCONVENTIONAL = [("not-conventional", None)]
UNSCOPED = [("scope-not-fork", None)]
LINE_ROWS = [
    *((f"{kind}(fork): x", FREE) for kind in TYPES),
    ("feat(fork)!: x", FREE),
    *((f"{kind}: x", UNSCOPED) for kind in TYPES),
    ("feat(server): x", UNSCOPED),
    ("feat(fork/aws): x", UNSCOPED),
    ("feat(forks): x", UNSCOPED),
    ("feat!: x", UNSCOPED),
    ("Fix the thing", UNCONVENTIONAL),
    ("feature(fork): x", UNCONVENTIONAL),
    ("Feat(fork): x", UNCONVENTIONAL),
    ("feat(FORK): x", UNCONVENTIONAL),
    ("feat(fork):x", UNCONVENTIONAL),
    ("feat(fork):", UNCONVENTIONAL),
    ("feat(fork):  ", UNCONVENTIONAL),
    ("feat (fork): x", UNCONVENTIONAL),
    ("feat(fork) : x", UNCONVENTIONAL),
    ("feat()(fork): x", UNCONVENTIONAL),
    ("feat(fork)!!: x", UNCONVENTIONAL),
    (" feat(fork): x", UNCONVENTIONAL),
    ("fixup! feat(fork): x", UNCONVENTIONAL),
    ('Revert "feat(fork): x"', UNCONVENTIONAL),
    ("revert(fork): feat(fork): x", FREE),
    ("", UNCONVENTIONAL),
]


@pytest.mark.parametrize(("subject", "rules"), LINE_ROWS)
def test_line(
    history: History, check: Callable[..., Result], subject: str, rules: list[tuple[str, str | None]]
) -> None:
    history.branch(LINE, "main")
    history.commit(subject, CODE, on="work", parents=["main"])

    result = check(history, LINE)

    assert result.rules == rules
    assert result.status == int(bool(rules))


@pytest.mark.parametrize(
    "base", ["develop", "release/v1", "release/vcluster/next", "mainline", "feature/main"]
)
def test_other_branches_are_not_gated(history: History, check: Callable[..., Result], base: str) -> None:
    history.branch(base, "main")
    history.commit("feat(fork): anything goes", CODE, on="work", parents=["main"])

    result = check(history, base)

    assert (result.status, result.rules, result.json["branch"]) == (0, [], "not gated")


def test_each_commit_and_path_has_its_own_finding(history: History, check: Callable[..., Result]) -> None:
    first = history.commit("ci(fork): one", {"a": "1", "b": "1"}, on="work", parents=["main"])
    second = history.commit("ci(fork): two", {"a": "2"}, on="work")

    findings = check(history).json["findings"]

    assert [(f["commit"], f["path"]) for f in findings] == [(first, "a"), (first, "b"), (second, "a")]
    assert all(f["fix"] for f in findings)


def test_policy_show_prints_the_types_and_the_allowlist(history: History, run: Command) -> None:
    result = run(history, "policy", "show", "--output", "json")

    assert (result.status, result.json["origin"]) == (0, "defaults")
    settings = result.json["settings"]
    assert settings["product-types"] == ["feat", "fix", "perf", "refactor"]
    assert settings["tooling-types"] == ["docs", "style", "test", "build", "ci", "chore", "revert"]
    assert "Dockerfile.release" in settings["allowlist"]
