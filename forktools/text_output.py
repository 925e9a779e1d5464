"""Terminal and Markdown output of each command, as reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from forktools import json_output
from forktools.audit import AUDIT_RULES
from forktools.commit_matching import BROKEN, REPLAY_RULES, MatchState
from forktools.policy import COMMIT_RULES, Branch, Level
from forktools.release_line import CommitKind
from forktools.remembered_release_lines import MEMORY_RULES
from forktools.replay_plan import PlannedAction
from forktools.replay_run import RunPhase
from forktools.reporting import Block, Report, Table
from forktools.settings import current, listed
from forktools.tags import TAG_RULES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forktools.commit_matching import Comparison
    from forktools.policy import Finding
    from forktools.pull_request import PullRequestVerdict as PullRequestVerdict
    from forktools.release_line import LineCommit, ReleaseLine
    from forktools.replay_gate import LineVerdict
    from forktools.replay_plan import ReplayPlan
    from forktools.replay_run import ReplayRun
    from forktools.tags import TagVerdict
    from forktools.upstream_tags import Fetched


def policy() -> Report:
    """`policy show`."""
    settings = current()
    values = Table(
        f"Settings, from {settings.origin}",
        ("setting", "value", "what it says"),
        tuple((name, value, meaning) for name, value, meaning in listed(settings)),
    )
    rules = (*COMMIT_RULES, *TAG_RULES, *REPLAY_RULES, *MEMORY_RULES, *AUDIT_RULES)
    named = tuple((rule.name, str(rule.level), rule.says) for rule in rules)
    return Report(
        "policy show",
        f"{len(rules)} rules, {len(settings.allowlist)} allowed paths.",
        json_output.policy(rules),
        tables=(values, Table("Rules", ("rule", "level", "says"), named)),
    )


def upstream_fetch(found: Fetched) -> Report:
    """`upstream fetch`."""
    if not found.url:
        summary = f"Lines are cut from tags on the trunk, {found.releases} here: nothing to fetch."
        return Report("upstream fetch", summary, json_output.upstream_fetch(found))
    told = [f"{_count(found.releases, 'release')} of upstream's here, {len(found.new)} new tags."]
    if found.moved:
        told.append(f"Upstream has moved {', '.join(found.moved)}.")
    if found.differing:
        told.append(
            "Tags here of upstream's names on other commits, never taken for upstream's: "
            f"{', '.join(found.differing)}."
        )
    return Report("upstream fetch", " ".join(told), json_output.upstream_fetch(found))


def pull_request(verdict: PullRequestVerdict) -> Report:
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
        json_output.verdict(verdict, not errors),
        verdict.findings,
        sarif=json_output.sarif(verdict.findings),
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
    return Report("check-tag", summary, json_output.tag(verdict, not errors), verdict.findings)


def inventory(line: ReleaseLine) -> Report:
    """`replay inventory`."""
    counts = Counter(entry.kind for entry in line.entries)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in CommitKind)
    merges = f", {_count(line.clean_merges, 'merge')} that change nothing" if line.clean_merges else ""
    lost = (
        "" if line.cut_from_base else f" The branch does not contain {line.upstream}: it was not cut from it."
    )
    return Report(
        "replay inventory",
        f"{_count(len(line.entries), 'commit')} in {line.upstream}..{line.branch}: {told}{merges}.{lost}",
        json_output.inventory(line),
        tables=[_entries(f"{line.branch}, oldest first", line.entries)],
    )


def comparison(
    command: str, found: Comparison, range_diffs: Mapping[str, str], findings: Sequence[Finding] = ()
) -> Report:
    """`replay status` and `replay verify`."""
    counts = Counter(fate.state for fate in found.fates)
    told = (
        ", ".join(f"{counts[state]} {state}" for state in MatchState if counts[state]) or "nothing to carry"
    )
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
            _range_diff_of(fate.entry.commit.sha, [commit.sha for commit in fate.by]),
        )
        for fate in found.fates
        if fate.entry.commit.sha in range_diffs
    ]
    missing = [
        f.entry.commit
        for f in found.fates
        if f.state is MatchState.MISSING and f.entry.kind is not CommitKind.STRAY
    ]
    steps = [
        "To bring in what is missing, on a branch from the new line:",
        *(f"git cherry-pick -x {commit.sha}" for commit in missing),
    ]
    return Report(
        command,
        f"{found.old.branch} -> {found.new.branch}: {told}; {len(found.added)} new.{judged}",
        json_output.comparison(command, found, dict(range_diffs), not errors, findings),
        findings,
        tables,
        blocks,
        next_steps=steps if missing else (),
    )


def verdict(found: LineVerdict) -> Report:
    """`replay verify` of a line at its gate."""
    branch = found.line.line.branch
    errors, warnings = _tally(found.findings)
    if found.before is None:
        document = json_output.first_line(found, not errors)
        report = Report("replay verify", f"{branch} is the first line: nothing to carry over.", document)
    else:
        report = comparison("replay verify", found.before, {}, found.findings)
        report = replace(report, document=report.document | json_output.after(found))
    after = "".join(
        f" {one.new.branch} carries {sum(fate.state not in BROKEN for fate in one.fates)} "
        f"of its {_count(len(one.fates), 'commit')}."
        for one in found.after
    )
    judged = (
        f" {_count(errors, 'violation')}, {_count(warnings, 'warning')}."
        if found.before is None and found.findings
        else ""
    )
    return replace(report, summary=report.summary + after + judged, findings=found.findings)


def plan(found: ReplayPlan, tried: bool) -> Report:
    """`replay plan`. `tried` says whether a trial of the picks was made."""
    counts = Counter(step.action for step in found.steps)
    told = (
        ", ".join(f"{counts[action]} {action}" for action in PlannedAction if counts[action])
        or "nothing to do"
    )
    stuck = [step for step in found.steps if step.stops]
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
        json_output.plan(found, not counts[PlannedAction.UNDECIDED]),
        tables=[Table(title, ("#", "commit", "kind", "action", "subject", "remark"), rows)],
        next_steps=_undecided(counts[PlannedAction.UNDECIDED]),
    )


def run(
    found: ReplayRun,
    range_diffs: Sequence[str] = (),
    tag_name: str = "",
    reused: Mapping[str, str] | None = None,
) -> Report:
    """`replay apply`. `range_diffs` show the differences of commits that wait to be accepted; `tag_name` is
    the next release of a finished line, `reused` the range-diffs of commits that were resolved as before."""
    report = _run(found, range_diffs, tag_name)
    if not found.reused:
        return report
    rows = tuple(
        (one.sha[:12], one.by[:12], path, "lines beside it have moved since" if path in one.moved else "")
        for one in found.reused
        for path in one.paths
    )
    blocks = [
        Block(
            f"{sha[:12]} settled as before",
            text,
            _range_diff_of(sha, [one.by for one in found.reused if one.sha == sha]),
        )
        for sha, text in (reused or {}).items()
    ]
    title = "Conflicts settled as they were before: look at them"
    table = Table(title, ("commit", "by", "path", "remark"), rows)
    return replace(report, tables=[*report.tables, table], blocks=[*blocks, *report.blocks])


def _run(found: ReplayRun, range_diffs: Sequence[str], tag_name: str) -> Report:
    if found.phase is RunPhase.DONE:
        steps = [
            "Next:",
            f"git push origin {found.branch}",
            f"forktools check-tag {tag_name}",
            f"git tag {tag_name} {found.branch} && git push origin {tag_name}",
        ]
        summary = f"{found.branch} is cut: {_count(len(found.moves), 'commit')} on {found.base[:12]}."
        return Report("replay apply", summary, json_output.run(found, True), next_steps=steps)
    move = found.current
    if found.differs:
        made = ", ".join(sha[:12] for sha in found.differs)
        return Report(
            "replay apply",
            f'{made} is not the change of {move.sha[:12]} "{move.subject}", which it stands for: '
            "see the range-diff.",
            json_output.run(found, False, range_diffs),
            blocks=[
                Block(
                    f"How {made} differs from {move.sha[:12]}",
                    "".join(range_diffs),
                    _range_diff_of(move.sha, found.differs),
                )
            ],
            next_steps=[
                "If it is right, say why, on record:",
                "  forktools replay apply --continue --accept 'why'",
                f"else amend it in {found.worktree}, or leave the commit out: --continue --drop 'why'",
            ],
        )
    hand = (
        f"make the change of merge {move.sha} by hand"
        if move.action is PlannedAction.BY_HAND
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
        json_output.run(found, False),
        next_steps=steps,
    )


def undone(found: ReplayRun) -> Report:
    """`replay apply --abort`."""
    back = replace(found, phase=RunPhase.UNDONE)
    return Report("replay apply", f"Cutting {found.branch} is taken back.", json_output.run(back, True))


def _range_diff_of(old: str, news: Iterable[str]) -> str:
    return " && ".join(f"git range-diff --creation-factor=999 {old}^! {new}^!" for new in news)


def _entries(title: str, entries: Iterable[LineCommit]) -> Table:
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
