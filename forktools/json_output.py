"""Machine-readable results: the JSON of `--output json` (described by schema.json) and SARIF 2.1.0."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING
from urllib.parse import quote

from forktools.commit_matching import BROKEN
from forktools.package_version import version
from forktools.policy import COMMIT_RULES, Level
from forktools.sanitize import SUBJECT_LIMIT, encode, visible
from forktools.settings import MEANINGS, TABLES, current

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forktools.changelog import Release
    from forktools.commit_matching import Comparison
    from forktools.commits import Commit
    from forktools.policy import Finding, Rule
    from forktools.pull_request import PullRequestVerdict
    from forktools.release_line import LineCommit, ReleaseLine
    from forktools.replay_gate import LineVerdict as LineVerdict
    from forktools.replay_plan import ReplayPlan
    from forktools.replay_run import ReplayRun
    from forktools.settings import PolicySettings
    from forktools.tags import ForkTag, TagVerdict
    from forktools.upstream_tags import Fetched

Document = dict[str, object]

VERSION = 1


def document(command: str, ok: bool, findings: Iterable[Finding] = (), **more: object) -> Document:
    """The common fields of every result: the schema's version, the command, the verdict, the findings."""
    return {
        "version": VERSION,
        "command": command,
        "ok": ok,
        "findings": [_finding(f) for f in findings],
    } | more


def policy(rules: Sequence[Rule]) -> Document:
    """`policy show`."""
    settings = current()
    listed = [{"name": rule.name, "level": rule.level, "says": rule.says, "fix": rule.fix} for rule in rules]
    return document(
        "policy show",
        True,
        origin=visible(settings.origin),
        settings=_settings(settings),
        rules=listed,
    )


def _settings(settings: PolicySettings) -> Document:
    values = {name: getattr(settings, name.replace("-", "_")) for name in MEANINGS}
    lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
    tables = {name: dict(getattr(settings, name.replace("-", "_"))) for name in TABLES}
    return values | lists | tables


def upstream_fetch(found: Fetched) -> Document:
    """`upstream fetch`."""
    return document(
        "upstream fetch",
        True,
        url=visible(found.url),
        releases=found.releases,
        new=[visible(name) for name in found.new],
        moved=[visible(name) for name in found.moved],
        differing=[visible(name) for name in found.differing],
    )


def verdict(found: PullRequestVerdict, ok: bool) -> Document:
    """`check-pr`."""
    return document(
        "check-pr",
        ok,
        found.findings,
        base_ref=visible(found.base_ref),
        branch=found.kind.value,
        base_sha=found.base_sha,
        head_sha=found.head_sha,
        commits=found.commits,
    )


def tag(found: TagVerdict, ok: bool) -> Document:
    """`check-tag`."""
    return document(
        "check-tag",
        ok,
        found.findings,
        tag=visible(found.tag),
        line=found.line,
        exists=found.exists,
        commit=found.commit,
        behind=found.behind,
    )


def next_tag(found: ForkTag) -> Document:
    """`next-tag`."""
    return document("next-tag", True, line=found.line, tag=str(found))


def changelog(found: Iterable[Release]) -> Document:
    """`changelog`."""
    listed = [
        {
            "tag": one.tag or None,
            "line": one.line,
            "commit": one.commit,
            "day": one.day,
            "since": one.since or None,
            "added": [_entry(entry) for entry in one.added],
            "carried": [_entry(entry) for entry in one.carried],
            "carried_from": one.carried_from or None,
            "left_out": [{"commit": sha, "reason": visible(why)} for sha, why in one.left_out],
            "accepted": [{"commit": sha, "reason": visible(why)} for sha, why in one.accepted],
        }
        for one in found
    ]
    return document("changelog", True, releases=listed)


def inventory(line: ReleaseLine) -> Document:
    """`replay inventory`."""
    return document("replay inventory", True, line=_line(line), commits=[_entry(e) for e in line.entries])


def comparison(
    command: str, found: Comparison, range_diffs: dict[str, str], ok: bool, findings: Sequence[Finding] = ()
) -> Document:
    """`replay status` and `replay verify`."""
    commits = [
        _entry(fate.entry)
        | {
            "state": fate.state,
            "by": [_commit(commit) for commit in fate.by],
            "remark": visible(fate.remark),
            "difference": fate.difference,
            "range_diff": [visible(line) for line in range_diffs.get(fate.entry.commit.sha, "").splitlines()],
        }
        for fate in found.fates
    ]
    return document(
        command,
        ok,
        findings,
        old=_line(found.old),
        new=_line(found.new),
        commits=commits,
        new_commits=[_entry(entry) for entry in found.added],
    )


def first_line(found: LineVerdict, ok: bool) -> Document:
    """`replay verify` of the first line, which has no line before it."""
    line = found.line.line
    added = [_entry(entry) for entry in line.entries]
    frame = document(
        "replay verify", ok, found.findings, old=None, new=_line(line), commits=[], new_commits=added
    )
    return frame | after(found)


def after(found: LineVerdict) -> Document:
    """How the later lines carry this one."""
    return {
        "later": [
            {
                "line": _line(one.new),
                "commits": len(one.fates),
                "broken": [fate.entry.commit.sha for fate in one.fates if fate.state in BROKEN],
            }
            for one in found.after
        ]
    }


def plan(found: ReplayPlan, ok: bool) -> Document:
    """`replay plan`."""
    steps = [
        _commit(step.commit)
        | {
            "kind": step.kind,
            "action": step.action,
            "remark": visible(step.remark),
            "conflicts": [visible(path) for path in step.conflicts],
            "stops": step.stops,
        }
        for step in found.steps
    ]
    return document("replay plan", ok, old=_line(found.old), line=found.branch, base=found.base, steps=steps)


def run(found: ReplayRun, ok: bool, range_diffs: Iterable[str] = ()) -> Document:
    """`replay apply`."""
    waiting = found.moves[found.position] if found.position < len(found.moves) else None
    return document(
        "replay apply",
        ok,
        line=found.branch,
        base=found.base,
        head=found.head,
        phase=found.phase,
        done=found.position,
        moves=len(found.moves),
        worktree=visible(found.worktree),
        waiting_for=waiting.sha if waiting else None,
        conflicts=[visible(path) for path in found.conflicts],
        differs=list(found.differs),
        reused=[
            {
                "commit": one.sha,
                "by": one.by or None,
                "paths": [visible(path) for path in one.paths],
                "moved": [visible(path) for path in one.moved],
            }
            for one in found.reused
        ],
        range_diff=[visible(line) for text in range_diffs for line in text.splitlines()],
    )


def sarif(findings: Iterable[Finding], rules: Sequence[Rule] = COMMIT_RULES) -> Document:
    """Findings as a SARIF 2.1.0 log (OASIS)."""
    names = [rule.name for rule in rules]
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "forktools",
                        **_version(),
                        "rules": [
                            {
                                "id": rule.name,
                                "shortDescription": {"text": rule.says},
                                "help": {"text": rule.fix},
                                "defaultConfiguration": {"level": _sarif_level(rule)},
                            }
                            for rule in rules
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_sarif_result(finding, names) for finding in findings],
            }
        ],
    }


def _version() -> dict[str, str]:
    found = version()
    return {"version": found} if found else {}


def _sarif_result(finding: Finding, names: list[str]) -> Document:
    subject = visible(finding.subject, SUBJECT_LIMIT)
    # Viewers show a result at its location; a finding on a subject has no file, so it gets the root.
    uri = _uri(finding.path) if finding.path is not None else "."
    return {
        "ruleId": finding.rule.name,
        "ruleIndex": names.index(finding.rule.name),
        "level": _sarif_level(finding.rule),
        "message": {
            "text": f'{finding.sha[:12]} "{subject}": {visible(finding.message)}. {finding.rule.fix}'
        },
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}}}],
        "partialFingerprints": {"commitAndPath/v1": f"{finding.sha}:{uri}"},
        "properties": {"commit": finding.sha, "subject": subject},
    }


def _sarif_level(rule: Rule) -> str:
    return "error" if rule.level is Level.ERROR else "warning"


def _uri(path: str) -> str:
    return quote(encode(path), safe="/")


def _finding(finding: Finding) -> Document:
    return {
        "rule": finding.rule.name,
        "level": finding.rule.level,
        "commit": finding.sha,
        "subject": visible(finding.subject, SUBJECT_LIMIT),
        "message": visible(finding.message),
        "fix": finding.rule.fix,
    } | _path(finding.path)


def _path(path: str | None) -> Document:
    """A path as shown and, if making it visible changed it, its bytes."""
    if path is None:
        return {"path": None}
    shown = visible(path)
    if shown == path:
        return {"path": shown}
    return {"path": shown, "path_base64": base64.b64encode(encode(path)).decode()}


def _commit(commit: Commit) -> Document:
    return {"commit": commit.sha, "subject": visible(commit.subject, SUBJECT_LIMIT)}


def _entry(entry: LineCommit) -> Document:
    return _commit(entry.commit) | {
        "kind": entry.kind,
        "merge": entry.commit.is_merge,
        "patch_id": entry.patch,
    }


def _line(line: ReleaseLine) -> Document:
    return {
        "branch": line.branch,
        "base": line.base,
        "tip": line.tip,
        "cut_from_base": line.cut_from_base,
        "clean_merges": line.clean_merges,
    }
