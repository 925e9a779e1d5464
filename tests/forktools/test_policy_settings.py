"""Policy settings of a repository: their source, their effect, and the errors for invalid ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from forktools.settings import parse
from tests.forktools.conftest import Command
from tests.forktools.git_history import Changes, History

LINE = "release/vcluster/v1.0.0"
TOOLING: Changes = {"tools/a.sh": "echo\n"}
WIDE = 'allowlist = ["tools/**"]\n'


def origin(run: Command, history: History, *more: str) -> str:
    result = run(history, *more, "policy", "show", "--output", "json")
    assert result.status == 0, result.err
    return str(result.json["origin"])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".forktools.toml", WIDE),
        (".github/forktools.toml", WIDE),
        ("pyproject.toml", "[project]\nname = 'x'\n[tool.forktools]\n" + WIDE),
    ],
)
def test_settings_are_read_from_the_trunk(history: History, run: Command, file: str, content: str) -> None:
    history.commit("ci: settings", {file: content})

    result = run(history, "policy", "show", "--output", "json")

    assert result.json["origin"] == f"{file} of main"
    assert result.json["settings"]["allowlist"] == ["tools/**"]
    assert result.json["settings"]["scope"] == "fork"  # a missing setting has the fork's value


def test_a_repository_that_sets_nothing_has_the_fork_s(history: History, run: Command) -> None:
    history.commit("build: a project", {"pyproject.toml": "[project]\nname = 'x'\n"})
    assert origin(run, history) == "defaults"


def test_settings_in_two_files_are_refused(history: History, run: Command) -> None:
    history.commit("ci: settings", {".forktools.toml": WIDE, ".github/forktools.toml": WIDE})

    result = run(history, "policy", "show")

    assert (result.status, result.out) == (2, "")
    assert ".forktools.toml and in .github/forktools.toml" in result.err
    assert "Keep them in one file" in result.err


def test_a_pull_request_does_not_choose_its_rules(history: History, run: Command) -> None:
    """Its head widens the allowlist and uses that, but the base's rules apply."""
    history.commit("docs: base", {"README.md": "base\n"})
    history.branch("work", "main")
    history.commit("ci(fork): may change tools", {".github/forktools.toml": WIDE}, on="work")
    history.commit("ci(fork): a tool", TOOLING, on="work")
    history.git("checkout", "--quiet", "work")

    result = run(history, "check-pr", "--base", "main", "--head", "work", "--output", "json")

    assert result.rules == [("path-outside-allowlist", "tools/a.sh"), ("settings-changed", None)]
    history.branch("main", "work~1")
    assert run(history, "check-pr", "--base", "main", "--head", "work", "-o", "json").rules == []


def test_a_line_is_judged_by_the_trunk_s_rules(history: History, run: Command) -> None:
    """A line has the settings from when it was cut, or none."""
    history.tag("v1.0.0", "main")
    history.branch(LINE, "v1.0.0")
    history.commit("ci: settings", {".forktools.toml": 'scope = "ours"\n'})
    history.branch("work", LINE)
    history.commit("feat(ours): a feature", {"a": "1"}, on="work")

    assert run(history, "check-pr", "--base", LINE, "--head", "work", "--output", "json").rules == []


def test_a_line_s_own_settings_need_not_be_readable(history: History, run: Command) -> None:
    """The line was cut when forktools had other settings."""
    history.tag("v1.0.0", "main")
    history.commit("ci(fork): old settings", {".forktools.toml": "gone = 1\n"}, on=LINE, parents=["v1.0.0"])
    history.branch("work", LINE)
    history.commit("feat(fork): a feature", {"a": "1"}, on="work")

    assert run(history, "check-pr", "--base", LINE, "--head", "work", "--output", "json").rules == []


def test_a_trunk_of_another_name(history: History, run: Command) -> None:
    """The branch's own settings call it a trunk; they are read before any other branch's."""
    history.git("branch", "--move", "main", "develop")
    history.git("symbolic-ref", "HEAD", "refs/heads/develop")
    history.commit("ci: settings", {".forktools.toml": 'trunks = ["develop"]\n'}, on="develop")
    history.branch("work", "develop")
    history.commit("feat(fork): product", {"a": "1"}, on="work")

    result = run(history, "check-pr", "--base", "develop", "--head", "work", "--output", "json")

    assert result.rules == [("product-on-trunk", None)]


def test_the_remote_s_default_branch_comes_first(history: History, run: Command, tmp_path: Path) -> None:
    history.commit("ci: settings", {".forktools.toml": WIDE})
    history.git("clone", "--quiet", str(history.path), str(tmp_path / "clone"))
    clone = History(tmp_path / "clone")
    clone.commit("ci: mine", {".forktools.toml": 'scope = "mine"\n'})

    assert origin(run, clone) == ".forktools.toml of origin/HEAD"
    assert origin(run, clone, "--settings-from", "HEAD") == ".forktools.toml of HEAD"


def test_the_variable_names_the_place_too(
    history: History, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    history.commit("ci: settings", {".forktools.toml": WIDE}, on="other")
    monkeypatch.setenv("FORKTOOLS_SETTINGS_FROM", "other")
    assert origin(run, history) == ".forktools.toml of other"


def test_a_place_that_is_not_there_is_said(history: History, run: Command) -> None:
    result = run(history, "--settings-from", "nowhere", "policy", "show")
    assert result.status == 2
    assert "nowhere" in result.err


WRONG = [
    ('scop = "x"', "there is no setting scop", "Settings: upstream, line-prefix, trunks, scope"),
    ('scope = "Fork"', 'scope cannot be "Fork"', "small letters"),
    ("scope = 1", "scope is not a text", 'scope = "fork"'),
    ('trunks = "main"', "trunks is not a list of texts", 'trunks = ["master"]'),
    ("trunks = []", "trunks is not a list of texts", 'trunks = ["master"]'),
    ('tag = "v1.2.3"', 'tag cannot be "v1.2.3"', "vX.Y.Z.vcluster.N"),
    ('tag = "vX.Y.ZN"', 'tag cannot be "vX.Y.ZN"', "vX.Y.Z.vcluster.N"),
    ('line-prefix = "release"', 'line-prefix cannot be "release"', "End it with a slash"),
    ('allowlist = ["docs/*"]', 'allowlist cannot be "docs/*"', "docs/**"),
    ('allowlist = ["../x"]', 'allowlist cannot be "../x"', "from the top"),
    ('allowlist = ["/etc/**"]', 'allowlist cannot be "/etc/**"', "from the top"),
    ('allowlist = ["**"]', 'allowlist cannot be "**"', "from the top"),
    ('product-types = ["ci"]', "ci is a product type and a tooling type", "Choose one"),
    ('tooling-types = ["ci"]', "tooling-types lack chore", 'Add "chore"'),
    ('upstream = "k3s-io/kine"', 'upstream cannot be "k3s-io/kine"', '"trunk"'),
    ('upstream = "ext::sh -c x"', 'upstream cannot be "ext::sh -c x"', "URL"),
    ('require-sign-off = "yes"', "require-sign-off is not true or false", "require-sign-off = true"),
    ('accepted = ["v1"]', "accepted is not a table of reasons", "accepted = {"),
    ('signed-after = ["abc"]', "signed-after is not a list of whole commit ids", "signed-after = ["),
    (
        'released-before-records = {"v1.0.0.vcluster.0" = "main"}',
        "released-before-records is not a table of whole commit ids",
        "released-before-records = {",
    ),
    ("scope = ", "is not TOML", "Mend .forktools.toml"),
]


@pytest.mark.parametrize(("content", "problem", "fix"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_setting_is_said_with_what_would_be_right(
    history: History, run: Command, content: str, problem: str, fix: str
) -> None:
    history.commit("ci: settings", {".forktools.toml": content + "\n"})

    result = run(history, "policy", "show")

    assert (result.status, result.out) == (2, "")
    assert problem in result.err
    assert fix in result.err
    assert ".forktools.toml" in result.err


# ---- what the settings change


def test_names_of_one_s_own(history: History, run: Command) -> None:
    history.commit(
        "ci: settings",
        {".forktools.toml": 'line-prefix = "stable/"\nscope = "ours"\ntag = "vX.Y.Z-ours.N"\n'},
    )
    history.tag("v1.0.0", "main")
    history.branch("stable/v1.0.0", "main")
    history.commit("feat(ours): a feature", {"a": "1"}, on="stable/v1.0.0")

    assert run(history, "next-tag", "--line", "v1.0.0").out == "v1.0.0-ours.0\n"
    assert run(history, "check-tag", "v1.0.0-ours.0", "-o", "json").rules == []
    refused = run(history, "check-tag", "v1.0.0.vcluster.0", "-o", "json")
    assert refused.rules == [("tag-scheme", None)]
    assert "vX.Y.Z-ours.N" in refused.json["findings"][0]["message"]
    inventory = run(history, "replay", "inventory", "v1.0.0", "-o", "json").json
    assert [entry["kind"] for entry in inventory["commits"]] == ["product"]
    history.commit("feat(fork): a feature", {"b": "1"}, on="stable/v1.0.0")
    result = run(history, "check-pr", "--base", "stable/v1.0.0", "--base-sha", "v1.0.0", "-o", "json",
                 "--head", "stable/v1.0.0")  # fmt: skip
    assert result.rules == [("scope-not-fork", None)]
    assert "scope fork, not ours" in result.json["findings"][0]["message"]
    assert "`type(ours): text`" in result.json["findings"][0]["fix"]


@pytest.fixture
def own_trunk(history: History) -> History:
    """A repository whose lines are cut from tags on its own trunk."""
    history.commit("feat: as upstream's v1.0.0", {".forktools.toml": 'upstream = "trunk"\n'})
    history.tag("v1.0.0", "main")
    history.commit("feat: as upstream's v1.1.0", {"kine/server.py": "more\n"})
    history.tag("v1.1.0", "main")
    history.branch(LINE, "v1.0.0")
    return history


def test_lines_are_cut_from_tags_on_the_trunk(own_trunk: History, run: Command) -> None:
    own_trunk.commit("feat(fork): a feature", {"a": "1"}, on=LINE)

    assert run(own_trunk, "check-tag", "v1.0.0.vcluster.0", "-o", "json").rules == []
    fetched = run(own_trunk, "upstream", "fetch")
    assert (fetched.status, "nothing to fetch" in fetched.out) == (0, True)
    assert run(own_trunk, "replay", "apply", "--to", "v1.1.0", "--yes").status == 0
    assert run(own_trunk, "replay", "verify", "--to", "v1.1.0", "-o", "json").rules == []
    assert run(own_trunk, "check-tag", "v1.1.0.vcluster.0", "-o", "json").rules == []


@pytest.mark.parametrize(
    ("place", "rules"), [("main~1", []), (LINE, [("base-tag-off-trunk", None)]), ("", [])]
)
def test_a_base_tag_stands_on_the_trunk(
    own_trunk: History, run: Command, place: str, rules: list[tuple[str, str | None]]
) -> None:
    own_trunk.commit("feat(fork): a feature", {"a": "1"}, on=LINE)
    if place:
        own_trunk.tag("v1.2.0", place)

    assert run(own_trunk, "check-tag", "v1.2.0", "-o", "json").rules == rules


def test_a_base_tag_is_no_release_where_upstream_has_its_own(history: History, run: Command) -> None:
    history.tag("v1.0.0", "main")
    assert run(history, "check-tag", "v1.0.0", "-o", "json").rules == [("tag-scheme", None)]


def test_a_line_without_its_base_tag(own_trunk: History, run: Command) -> None:
    own_trunk.branch("release/vcluster/v9.0.0", "main")
    result = run(own_trunk, "check-tag", "v9.0.0.vcluster.0")
    assert result.status == 2
    assert "tag the commit of the trunk" in result.err


def test_this_repository_s_settings_are_valid() -> None:
    settings = parse(tomllib.loads((Path(__file__).parents[2] / ".forktools.toml").read_text()), "here")
    assert settings.cuts_from_trunk
