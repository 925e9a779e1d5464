"""What each command shows of what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from forktools import documents
from forktools.cut import Phase
from forktools.lines import Kind
from forktools.plan import Action
from forktools.policy import ALLOWLIST, COMMIT_RULES, FORK_SCOPE, PRODUCT_TYPES, TOOLING_TYPES, Branch, Level
from forktools.replay import State
from forktools.report import Block, Report, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forktools.cut import Run
    from forktools.lines import Entry, Line
    from forktools.plan import Plan
    from forktools.policy import Finding
    from forktools.pull_request import Verdict
    from forktools.replay import Comparison
    from forktools.tags import TagVerdict


def policy() -> Report:
    """`policy show`."""
    subjects = Table(
        "Subjects: type(scope)!: text",
        ("what", "values"),
        (
            ("scope of the fork", FORK_SCOPE),
            ("product types", ", ".join(PRODUCT_TYPES)),
            ("tooling types", ", ".join(TOOLING_TYPES)),
        ),
    )
    allowlist = Table(
        "Paths a tooling commit of the fork may change on master and main",
        ("path",),
        tuple((path,) for path in ALLOWLIST),
    )
    rules = Table(
        "Rules", ("rule", "level", "says"), tuple((r.name, str(r.level), r.says) for r in COMMIT_RULES)
    )
    return Report(
        "policy show",
        f"{len(COMMIT_RULES)} rules, {len(ALLOWLIST)} allowed paths.",
        documents.policy(),
        tables=(subjects, allowlist, rules),
    )


def pull_request(verdict: Verdict) -> Report:
    """`check-pr`."""
    errors, warnings = _tally(verdict.findings)
    judged = f"{_count(verdict.commits, 'commit')} into {verdict.base_ref} ({verdict.kind.value})"
    if verdict.kind is Branch.OTHER:
        summary = f"{judged}: the policy asks nothing of this branch."
    elif errors or warnings:
        summary = f"{judged}: {_count(errors, 'violation')}, {_count(warnings, 'warning')}."
    else:
        summary = f"{judged}: all follow the policy."
    return Report(
        "check-pr",
        summary,
        documents.verdict(verdict, not errors),
        verdict.findings,
        sarif=documents.sarif(verdict.findings),
    )


def tag(verdict: TagVerdict) -> Report:
    """`check-tag`."""
    errors, _ = _tally(verdict.findings)
    if errors:
        summary = f"Tag {verdict.tag} must not be released: {_count(errors, 'violation')}."
    elif not verdict.commit:
        summary = f"Tag {verdict.tag} follows the scheme (only its name was checked)."
    else:
        place = "its tip" if not verdict.behind else f"{_count(verdict.behind, 'commit')} behind its tip"
        verb = "is" if verdict.exists else "would be"
        summary = f"Tag {verdict.tag} {verb} on {verdict.line}, at {place} ({verdict.commit[:12]})."
    return Report("check-tag", summary, documents.tag(verdict, not errors), verdict.findings)


def inventory(line: Line) -> Report:
    """`replay inventory`."""
    counts = Counter(entry.kind for entry in line.entries)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in Kind)
    merges = f", {_count(line.clean_merges, 'merge')} that change nothing" if line.clean_merges else ""
    lost = (
        "" if line.cut_from_base else f" The branch does not contain {line.upstream}: it was not cut from it."
    )
    return Report(
        "replay inventory",
        f"{_count(len(line.entries), 'commit')} in {line.upstream}..{line.branch}: {told}{merges}.{lost}",
        documents.inventory(line),
        tables=[_entries(f"{line.branch}, oldest first", line.entries)],
    )


def comparison(
    command: str, found: Comparison, range_diffs: Mapping[str, str], findings: Sequence[Finding] = ()
) -> Report:
    """`replay status` and `replay verify`."""
    counts = Counter(fate.state for fate in found.fates)
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state]) or "nothing to carry"
    errors, warnings = _tally(findings)
    judged = (
        f" {_count(errors, 'violation')}, {_count(warnings, 'warning')}."
        if command == "replay verify"
        else ""
    )
    rows = tuple(
        (
            fate.entry.commit.short,
            str(fate.entry.kind),
            str(fate.state),
            ", ".join(commit.short for commit in fate.by),
            fate.entry.commit.subject,
            fate.remark,
        )
        for fate in found.fates
    )
    tables = [Table("Commits of the old line", ("commit", "kind", "state", "by", "subject", "remark"), rows)]
    if found.added:
        tables.append(_entries("New in the new line", found.added))
    blocks = [
        Block(
            f"{fate.entry.commit.short} {fate.state}: {fate.entry.commit.subject}",
            range_diffs[fate.entry.commit.sha],
        )
        for fate in found.fates
        if fate.entry.commit.sha in range_diffs
    ]
    missing = [
        f.entry.commit for f in found.fates if f.state is State.MISSING and f.entry.kind is not Kind.STRAY
    ]
    steps = [
        "To bring in what is missing, on a branch from the new line:",
        *(f"git cherry-pick -x {commit.sha}" for commit in missing),
    ]
    return Report(
        command,
        f"{found.old.branch} -> {found.new.branch}: {told}; {len(found.added)} new.{judged}",
        documents.comparison(command, found, dict(range_diffs), not errors, findings),
        findings,
        tables,
        blocks,
        next_steps=steps if missing else (),
    )


def plan(found: Plan, tried: bool) -> Report:
    """`replay plan`. `tried` says whether the picks were tried out."""
    counts = Counter(step.action for step in found.steps)
    told = ", ".join(f"{counts[action]} {action}" for action in Action if counts[action]) or "nothing to do"
    stuck = [step for step in found.steps if step.action is Action.PICK and step.remark]
    trial = (f" {len(stuck)} will stop for a person." if stuck else " All picks go through.") if tried else ""
    rows = tuple(
        (
            str(number),
            step.commit.short,
            str(step.kind),
            str(step.action),
            step.commit.subject,
            ": ".join(filter(None, (step.remark, ", ".join(step.conflicts)))),
        )
        for number, step in enumerate(found.steps, 1)
    )
    title = f"{found.branch}, to be cut at {found.base[:12]} from {found.old.branch}"
    return Report(
        "replay plan",
        f"{found.old.branch} -> {found.branch}: {told}.{trial}",
        documents.plan(found, not counts[Action.UNDECIDED]),
        tables=[Table(title, ("#", "commit", "kind", "action", "subject", "remark"), rows)],
        next_steps=_undecided(counts[Action.UNDECIDED]),
    )


def run(found: Run) -> Report:
    """`replay apply`."""
    if found.phase is Phase.DONE:
        tag_name = found.branch.rsplit("/", 1)[1] + ".vcluster.0"
        steps = [
            "Next:",
            f"git push origin {found.branch}",
            f"forktools check-tag {tag_name}",
            f"git tag {tag_name} {found.branch} && git push origin {tag_name}",
        ]
        summary = f"{found.branch} is cut: {_count(len(found.moves), 'commit')} on {found.base[:12]}."
        return Report("replay apply", summary, documents.run(found, True), next_steps=steps)
    move = found.current
    hand = (
        f"make the change of merge {move.sha} by hand"
        if move.action is Action.BY_HAND
        else "resolve the conflicts"
    )
    steps = [
        f"In {found.worktree}: {hand}, `git add` the files, then",
        "  forktools replay apply --continue",
        "or leave the commit out, on record:",
        "  forktools replay apply --continue --drop 'why'",
        "or take everything back:",
        "  forktools replay apply --abort",
    ]
    why = ": ".join(filter(None, ("conflicts in" if found.conflicts else "", ", ".join(found.conflicts))))
    return Report(
        "replay apply",
        f'Stopped at commit {found.position + 1} of {len(found.moves)}, {move.sha[:12]} "{move.subject}": '
        f"{why or found.complaint}.",
        documents.run(found, False),
        next_steps=steps,
    )


def undone(found: Run) -> Report:
    """`replay apply --abort`."""
    back = replace(found, phase=Phase.UNDONE)
    return Report("replay apply", f"Cutting {found.branch} is taken back.", documents.run(back, True))


def _entries(title: str, entries: Iterable[Entry]) -> Table:
    rows = tuple(
        (e.commit.short, str(e.kind), e.commit.subject, "a merge's own change" if e.commit.is_merge else "")
        for e in entries
    )
    return Table(title, ("commit", "kind", "subject", "remark"), rows)


def _undecided(count: int) -> Sequence[str]:
    if not count:
        return ()
    return (
        f"{_count(count, 'commit')} without the fork scope: the replay rule does not cover them. Decide with",
        "  --pick ID, --drop ID=REASON, or --strays pick or leave for all.",
    )


def _tally(findings: Iterable[Finding]) -> tuple[int, int]:
    levels = Counter(finding.rule.level for finding in findings)
    return levels[Level.ERROR], levels[Level.WARNING]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
