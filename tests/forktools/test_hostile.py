"""Commit messages, paths and branch names chosen by an attacker, in every output format."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forktools.policy import parse_subject
from forktools.sanitize import (
    annotation_data,
    annotation_property,
    decode,
    encode,
    has_visible_text,
    json_text,
    markdown,
    visible,
)
from forktools.settings import DEFAULTS
from tests.forktools.conftest import Command
from tests.forktools.git_history import History

pytestmark = pytest.mark.engines  # every text in every format, each in a repository of its own

ATTACKS = [
    "\x1b[2J\x1b[31mFAKE OK\x1b[0m",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x9b31m C1",
    "::error::forged",
    "::add-mask::secret",
    "::stop-commands::x",
    "##[error]forged",
    "##[set-env name=PATH;]/evil",
    "##vso[task.setvariable variable=x]y",
    "a%0A::error::forged",
    "\r::error::forged",
    "x\u2028::error::forged",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "tag \U000e0041",
    "[link](https://evil.example)",
    "![pixel](https://evil.example/p.png)",
    "<img src=https://evil.example/p.png>",
    "<script>alert(1)</script>",
    "</code></details><h1>FAKE</h1>",
    "| a | b |",
    "`code` **bold** @maintainer #1",
    "https://evil.example",
    "[bold red]rich markup[/]",
    ":smile:",
    "$(touch /tmp/owned) `id` ; rm -rf / & | > <",
    "' \" \\ \\n",
    "\x00\x01\x7f",
    "{{ secrets }} ${{ github.token }}",
]
_COMMAND = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)


def attack(history: History, text: str) -> None:
    path = text.replace("/", "|").replace("\0", "")[:200] or "x"
    history.commit(f"ci(fork): a {text}", {path: "1"}, on="work", parents=["main"])


def hidden(text: str) -> list[str]:
    """The characters that a terminal or a page would interpret instead of displaying."""
    bad = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    return [char for char in text if unicodedata.category(char) in bad and char != "\n"]


@pytest.mark.parametrize("text", ATTACKS)
def test_terminal(history: History, run: Command, text: str) -> None:
    attack(history, text)

    result = run(history, "check-pr", "--base=main", "--head=work", "--output=table")

    assert result.status == 1
    assert hidden(result.out) == []
    assert _COMMAND.findall(result.out) == []


@pytest.mark.parametrize("text", ATTACKS)
def test_annotations_and_summary(
    history: History, run: Command, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    attack(history, text)

    result = run(history, "check-pr", "--base=main", "--head=work")
    page = summary.read_text(encoding="utf-8")

    commands = [line for line in result.out.splitlines() if _COMMAND.search(line)]
    assert [
        re.match(r"::(\w+) title=path-outside-allowlist,file=[^:,]*::", line)[1] for line in commands
    ] == [  # type: ignore[index]
        "error"
    ]
    assert hidden(result.out + page) == []
    assert set(re.findall(r"</?[a-z]\w*", page)) <= {"<code", "</code"}
    assert not re.search(r"[`*@\[\]]|https?:", page)
    assert {line.count("|") for line in page.splitlines() if line.startswith("| ")} == {7}


@pytest.mark.parametrize("output", ["json", "sarif"])
@pytest.mark.parametrize("text", ATTACKS)
def test_data(history: History, run: Command, text: str, output: str) -> None:
    attack(history, text)

    result = run(history, "check-pr", "--base=main", "--head=work", f"--output={output}")
    strings = list(_strings(json.loads(result.out)))

    assert result.out.isascii()
    assert _COMMAND.findall(result.out) == []
    assert [char for string in strings for char in hidden(string)] == []


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "::error::x", "a\nb", "$(id)", "##[error]x", "--upload-pack=x"]
)
def test_branch_and_tag_names_on_the_command_line(history: History, run: Command, text: str) -> None:
    for arguments in (
        ["check-pr", f"--base-ref={text}", "--base-sha=main"],
        ["check-pr", f"--base-ref={text}"],
        ["check-pr", "--base-ref=main", f"--base-sha={text}"],
        ["check-tag", "--", text],
        ["next-tag", f"--line={text}"],
        ["replay", "inventory", "--", text],
        ["replay", "plan", f"--to={text}"],
        ["check-pr", "--base=main", f"--remote={text}"],
    ):
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        result = run(None, *options, f"--repository={history.path}", *arguments[len(options) :])

        assert hidden(result.out + result.err) == []
        assert _COMMAND.findall(result.out + result.err) == []


def test_a_flood_of_findings_does_not_fill_the_summary(
    history: History, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    history.commit(
        "ci(fork): x", {f"{n}/" + "<" * 250 + "/" + "é" * 100: "1" for n in range(2000)}, on="work"
    )

    result = run(history, "check-pr", "--base=main", "--head=work", "--output=github")

    assert result.out.count("::error ") == 10  # as many as GitHub shows
    assert summary.stat().st_size < 1024 * 1024
    assert "1500 more" in summary.read_text() or "too long" in summary.read_text()


def test_a_long_subject_is_cut(history: History, run: Command) -> None:
    history.commit("feat(fork): " + "x" * 100_000, on="work", parents=["main"])

    result = run(history, "check-pr", "--base=main", "--head=work", "--output=table")

    assert len(result.out) < 5_000


anything = st.text(st.characters(codec=None), max_size=60)


@given(anything)
def test_visible_hides_nothing_and_starts_no_command(text: str) -> None:
    shown = visible(text)

    assert hidden(shown) == []
    assert "\n" not in shown
    assert not re.search(r"##\w*\[", shown)
    assert decode(shown.encode()) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters="#"), max_size=60))
def test_visible_leaves_plain_text_alone(text: str) -> None:
    assert visible(text) == text


@given(st.binary(max_size=60))
def test_bytes_survive_decoding(raw: bytes) -> None:
    assert encode(decode(raw)) == raw


@given(anything)
def test_annotations_are_one_line_and_cannot_end_a_property(text: str) -> None:
    data, prop = annotation_data(text), annotation_property(text)

    assert "\n" not in data
    assert "\r" not in data
    assert not set(prop) & set("\r\n:,")


@given(anything)
def test_markdown_is_words_and_references_only(text: str) -> None:
    plain = re.sub(r"&#\d+;", "", markdown(text))

    assert all(not char.isascii() or char.isalnum() or char == " " for char in plain)


@given(st.recursive(anything, lambda inner: st.lists(inner) | st.dictionaries(anything, inner), max_leaves=5))
def test_json_text_says_what_it_was_given(document: object) -> None:
    text = json_text(document)

    assert text.isascii()
    assert not re.search(r"##\w*\[", text)
    assert json.loads(text) == document


@given(
    st.sampled_from(DEFAULTS.types),
    st.one_of(st.none(), st.from_regex(r"[a-z0-9/_-]+", fullmatch=True)),
    st.booleans(),
    st.text(st.characters(exclude_characters="\n", codec="utf-8"), min_size=1).filter(has_visible_text),
)
def test_every_conventional_subject_is_taken_apart(
    kind: str, scope: str | None, breaking: bool, text: str
) -> None:
    subject = parse_subject(f"{kind}{f'({scope})' if scope else ''}{'!' if breaking else ''}: {text}")

    assert subject is not None
    assert (subject.type, subject.scope, subject.breaking, subject.text) == (
        kind,
        scope or "",
        breaking,
        text,
    )
    assert subject.is_fork == (scope == "fork")


@given(st.text())
@settings(max_examples=300)
def test_a_subject_that_parses_was_written_that_way(text: str) -> None:
    subject = parse_subject(text)

    assert subject is None or text.startswith(subject.type)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [string for key, item in items for string in [str(key), *_strings(item)]]
