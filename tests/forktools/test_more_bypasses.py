"""Bypasses of the gates that were found by reading the documentation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.forktools.conftest import Command, Result
from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import APP_1_1, NEW, OLD, edited, picked, upstream

Check = Callable[..., Result]

AROUND = "".join(f"around {n}\n" for n in range(5))


def twins(first: str, second: str) -> str:
    """Two functions with the same lines."""
    return "".join(f"func {name}\n{AROUND}{line}\n{AROUND}" for name, line in (("a", first), ("b", second)))


class TestTwinPlaces:
    """The same patch applies at two similar places, but fixes only one of them."""

    @pytest.fixture
    def line(self, history: History) -> History:
        history.commit("feat: twins", {"twins.go": twins("broken", "fine")})
        history.commit("feat: both alike", {"twins.go": twins("broken", "broken")})
        upstream(history)
        history.branch(NEW, "v1.1.0")
        history.commit("fix(fork): a", {"twins.go": twins("mended", "broken")}, on=OLD)
        return history

    def test_the_other_place_is_another_change(self, line: History, verify: Command) -> None:
        message = picked("fix(fork): a", line.sha(OLD))
        line.commit(message, {"twins.go": twins("broken", "mended")}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (1, [("replay-changed", None)])
        assert "at another place" in result.json["findings"][0]["message"]

    def test_the_same_place_is_the_same(self, line: History, verify: Command) -> None:
        line.commit("fix(fork): before", {"twins.go": "one more\n" + twins("broken", "broken")}, on=NEW)
        line.commit("fix(fork): a", {"twins.go": "one more\n" + twins("mended", "broken")}, on=NEW)

        assert verify(line).status == 0


@pytest.mark.parametrize("blank", ["\u200b", "\u2800", "\u3164", "\u00ad \ufeff"])
@pytest.mark.parametrize("kind", ["dropped", "accepted"])
def test_a_reason_that_shows_nothing_is_none(
    history: History, verify: Command, blank: str, kind: str
) -> None:
    upstream(history)
    history.branch(NEW, "v1.1.0")
    old = history.commit("fix(fork): thirty", {"app.py": edited(30, "ours")}, on=OLD)
    trailer = f"Replay-Dropped: {old} {blank}"
    if kind == "accepted":
        history.commit(picked("fix(fork): thirty", old), {"app.py": edited(30, "else", APP_1_1)}, on=NEW)
        digest = verify(history).json["commits"][0]["difference"]
        trailer = f"Replay-Accepted: {old} {digest} {blank}"
    history.commit(f"chore(fork): a record\n\n{trailer}\n", {}, on=NEW)

    rule = "replay-changed" if kind == "accepted" else "replay-missing"
    assert (verify(history).status, verify(history).rules) == (1, [(rule, None)])


@pytest.mark.parametrize("name", ["..", ".", ".git", ".GIT", "a/../../kine"])
def test_a_path_that_leads_out_of_the_allowlist_is_outside_it(
    history: History, check: Check, name: str
) -> None:
    """git creates no such tree, and a server with `fsckObjects` rejects it; others accept it."""
    blob = history.git("hash-object", "-w", "--stdin", stdin=b"evil")
    inner = history.git("mktree", stdin=f"100644 blob {blob}\tserver.py\n".encode())
    raw = b"40000 " + name.encode() + b"\0" + bytes.fromhex(inner)
    docs = history.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    listing = f"{history.git('ls-tree', 'main')}\n040000 tree {docs}\tdocs\n"
    tree = history.git("mktree", "--missing", stdin=listing.encode())
    commit = history.git("commit-tree", tree, "-p", "main", "-m", "docs(fork): a page")
    history.git("update-ref", "refs/heads/work", commit)

    assert [rule for rule, _ in check(history).rules] == ["path-outside-allowlist"]


class TestSettings:
    """Settings are read from the trunk, so a pull request that changes them is annotated, or refused."""

    @pytest.fixture
    def trunk(self, history: History) -> History:
        history.commit("ci: settings", {".github/forktools.toml": 'trunks = ["main"]\n'})
        history.branch("work", "main")
        return history

    @pytest.mark.parametrize(
        "changes",
        [
            {".github/forktools.toml": "scope = "},
            {".github/forktools.toml": 'scoop = "fork"\n'},
            {".forktools.toml": 'trunks = ["main"]\n'},
        ],
        ids=["no TOML", "unknown", "two files"],
    )
    def test_a_pull_request_that_would_break_every_gate_is_refused(
        self, trunk: History, check: Check, changes: dict[str, str]
    ) -> None:
        trunk.commit("ci: settings", changes, on="work")

        result = check(trunk)

        assert (result.status, result.rules) == (1, [("settings-unreadable", None)])

    def test_a_pull_request_that_changes_what_is_judged_is_pointed_at(
        self, trunk: History, check: Check
    ) -> None:
        wider = 'trunks = ["main"]\nallowlist = ["**"]\n'.replace('"**"', '"kine/**"')
        trunk.commit("ci(fork): settings", {".github/forktools.toml": wider}, on="work")

        result = check(trunk)

        assert (result.status, result.rules) == (0, [("settings-changed", None)])
        assert "allowlist" in result.json["findings"][0]["message"]

    def test_on_a_line_they_do_not_count(self, trunk: History, check: Check) -> None:
        trunk.branch(OLD, "main")
        trunk.commit("ci(fork): settings", {".github/forktools.toml": "scope = "}, on="work")

        assert check(trunk, OLD).rules == []
