"""Lines that name every commit of the line before but lack its changes; each once passed `replay verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.forktools.git_history import History
from tests.forktools.synthetic_fork import NEW, OLD, edited, picked, upstream

if TYPE_CHECKING:
    from tests.forktools.conftest import Command


@pytest.fixture
def line(history: History) -> History:
    """Two commits on the old line; the new line is at its base."""
    upstream(history)
    history.commit("feat(fork): one", {"one.py": "1\n", "shared.py": "1\n"}, on=OLD)
    history.commit("fix(fork): two", {"app.py": edited(3, "two")}, on=OLD)
    history.branch(NEW, "v1.1.0")
    return history


def replay(history: History) -> None:
    """Makes the new line correct."""
    history.commit("feat(fork): one", {"one.py": "1\n", "shared.py": "1\n"}, on=NEW)
    now = history.show(NEW, "app.py") + "\n"
    history.commit("fix(fork): two", {"app.py": edited(3, "two", now)}, on=NEW)


MISSING = [("replay-missing", None), ("replay-missing", None)]


class TestEmptyCommits:
    """An empty commit stands only for an empty one."""

    def test_with_the_subjects(self, line: History, verify: Command) -> None:
        for subject in ("feat(fork): one", "fix(fork): two"):
            line.commit(subject, {}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (1, MISSING)
        assert "changes nothing" in result.json["findings"][0]["message"]

    def test_with_the_trailers(self, line: History, verify: Command) -> None:
        for name, subject in ((f"{OLD}~1", "feat(fork): one"), (OLD, "fix(fork): two")):
            line.commit(picked(subject, line.sha(name)), {}, on=NEW)

        assert verify(line).rules == MISSING

    def test_one_that_names_all(self, line: History, verify: Command) -> None:
        shas = line.sha(f"{OLD}~1"), line.sha(OLD)
        line.commit(picked("feat(fork): all of it", *shas), {}, on=NEW)

        assert verify(line).rules == MISSING

    def test_for_an_empty_one(self, line: History, verify: Command) -> None:
        line.commit("chore(fork): trigger a build", {}, on=OLD)
        replay(line)
        line.commit("chore(fork): trigger a build", {}, on=NEW)

        assert verify(line).rules == []


class TestUndone:
    """The changes must be there at the tip, whatever the messages say."""

    def test_a_whole_line_stands(self, line: History, verify: Command) -> None:
        replay(line)

        assert (verify(line).status, verify(line).rules) == (0, [])

    @pytest.mark.parametrize(
        "message",
        [
            "revert(fork): one\n\nRefs: {sha}",
            "revert(fork): one",
            "chore(fork): tidy up",
            "refactor(fork): simplify\n\n(cherry picked from commit 1234567890abcdef)",
        ],
    )
    def test_under_any_message(self, line: History, verify: Command, message: str) -> None:
        replay(line)
        changes = {"one.py": None, "shared.py": None}
        line.commit(message.format(sha=line.sha(f"{NEW}~1")), changes, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (1, [("replay-reverted", None)])

    def test_in_part(self, line: History, verify: Command) -> None:
        replay(line)
        line.commit("chore(fork): tidy up", {"one.py": None}, on=NEW)

        [finding] = verify(line).json["findings"]

        assert "one.py" in finding["message"]

    def test_by_a_merge_that_keeps_one_side(self, line: History, verify: Command) -> None:
        replay(line)
        line.commit("feat(fork): other", {"other.py": "another\n"}, on="side", parents=["v1.1.0"])
        gone = {"one.py": None, "shared.py": None, "app.py": line.show("v1.1.0", "app.py") + "\n"}
        line.commit("chore(fork): merge", {**gone, "other.py": "another\n"}, on=NEW, parents=[NEW, "side"])

        assert verify(line).rules == [("replay-reverted", None), ("replay-reverted", None)]

    def test_what_is_brought_back_stands(self, line: History, verify: Command) -> None:
        replay(line)
        line.commit("chore(fork): tidy up", {"one.py": None}, on=NEW)
        line.commit("fix(fork): bring it back", {"one.py": "1\n"}, on=NEW)

        assert verify(line).rules == []

    def test_what_later_work_builds_on_stands(self, line: History, verify: Command) -> None:
        line.commit("feat(fork): three", {"three.py": "a\nb\nc\n"}, on=OLD)
        replay(line)
        line.commit("feat(fork): three", {"three.py": "a\nb\nc\n"}, on=NEW)
        line.commit("fix(fork): better", {"three.py": "a\nbetter\nc\n"}, on=NEW)

        assert verify(line).rules == []

    @pytest.mark.parametrize("text", ["# nothing here\n", "#1\n", "12\n"])
    def test_removal_that_writes_over_it(self, line: History, verify: Command, text: str) -> None:
        """An improvement looks the same as a removal, so it needs a record, in the same commit or later."""
        replay(line)
        line.commit("refactor(fork): simplify", {"one.py": text}, on=NEW)
        assert verify(line).rules == [("replay-reverted", None)]
        old = line.sha(f"{OLD}~1")
        line.commit(f"chore(fork): on record\n\nReplay-Dropped: {old} written anew", {}, on=NEW)

        assert (verify(line).status, verify(line).rules) == (0, [])

    def test_removal_on_record(self, line: History, verify: Command) -> None:
        replay(line)
        message = f"refactor(fork): simplify\n\nReplay-Dropped: {line.sha(f'{OLD}~1')} not needed any more"
        line.commit(message, {"one.py": None, "shared.py": None}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (0, [])
        assert result.json["commits"][0]["state"] == "dropped"

    def test_what_carried_work_wrote_over_is_not_asked_for(self, line: History, verify: Command) -> None:
        line.commit("fix(fork): one, better", {"one.py": "2\n"}, on=OLD)
        replay(line)
        line.commit("fix(fork): one, better", {"one.py": "2\n"}, on=NEW)
        line.commit("fix(fork): one, best", {"one.py": "3\n"}, on=NEW)

        [finding] = verify(line).json["findings"]

        assert finding["commit"] == line.sha(OLD)

    def test_merge_that_keeps_its_own_side(self, line: History, verify: Command) -> None:
        """`git merge -s ours` of the whole line into a fresh one: it has all the commits and no changes."""
        replay(line)
        fresh = line.commit("chore(fork): start", {"start": "1\n"}, on="fresh", parents=["v1.1.0"])
        line.commit("chore(fork): merge", {}, on="fresh", parents=[fresh, NEW])
        line.branch(NEW, "fresh")

        assert verify(line).rules == [("replay-reverted", None), ("replay-reverted", None)]

    def test_what_the_old_line_took_back_itself_is_carried_so(self, line: History, verify: Command) -> None:
        line.commit("revert(fork): one", {"one.py": None, "shared.py": None}, on=OLD)
        replay(line)
        line.commit("revert(fork): one", {"one.py": None, "shared.py": None}, on=NEW)

        assert verify(line).rules == []


class TestContext:
    """The same changed lines between other context lines are the same change."""

    def test_only_the_lines_around_differ(self, line: History, verify: Command) -> None:
        line.commit("fix(fork): near", {"app.py": edited(29, "near", edited(3, "two"))}, on=OLD)
        replay(line)
        now = line.show(NEW, "app.py") + "\n"
        assert "upstream's thirty" in now
        line.commit("fix(fork): near", {"app.py": edited(29, "near", now)}, on=NEW)

        result = verify(line)

        assert (result.status, result.rules) == (0, [])
        assert result.json["commits"][2]["remark"] == "in another context"


@pytest.mark.parametrize(
    "trailer",
    [
        "cherry picked from commit {}",
        "(backported from commit {})",
        "Cherry-picked-from: {}",
        "  (cherry picked from commit {})",
    ],
)
def test_trailers_as_people_write_them(line: History, verify: Command, trailer: str) -> None:
    sha = line.sha(f"{OLD}~1")
    line.commit(f"feat(fork): uno\n\n{trailer.format(sha)}", {"one.py": "1\n", "more.py": "1\n"}, on=NEW)
    now = line.show(NEW, "app.py") + "\n"
    line.commit("fix(fork): two", {"app.py": edited(3, "two", now)}, on=NEW)

    result = verify(line)

    assert result.json["commits"][0]["state"] == "changed in replay"  # found by the trailer, but different
    assert (result.status, result.rules) == (1, [("replay-changed", None)])
