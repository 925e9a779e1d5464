"""Answers as data: the JSON of `--output json` (schema.json describes it) and SARIF 2.1.0."""

from __future__ import annotations

import base64
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import quote

from forktools.policy import ALLOWLIST, COMMIT_RULES, PRODUCT_TYPES, TOOLING_TYPES, Level
from forktools.text import SUBJECT_LIMIT, encode, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forktools.commits import Commit
    from forktools.cut import Run
    from forktools.lines import Entry, Line
    from forktools.plan import Plan
    from forktools.policy import Finding, Rule
    from forktools.pull_request import Verdict
    from forktools.replay import Comparison
    from forktools.tags import ForkTag, TagVerdict

Document = dict[str, object]

VERSION = 1


def document(command: str, ok: bool, findings: Iterable[Finding] = (), **more: object) -> Document:
    """The frame of every answer: the schema's version, the command, the verdict, the findings."""
    return {
        "version": VERSION,
        "command": command,
        "ok": ok,
        "findings": [_finding(f) for f in findings],
    } | more


def policy() -> Document:
    """The policy itself."""
    rules = [
        {"name": rule.name, "level": rule.level, "says": rule.says, "fix": rule.fix} for rule in COMMIT_RULES
    ]
    return document(
        "policy show",
        True,
        product_types=list(PRODUCT_TYPES),
        tooling_types=list(TOOLING_TYPES),
        allowlist=list(ALLOWLIST),
        rules=rules,
    )


def verdict(found: Verdict, ok: bool) -> Document:
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


def inventory(line: Line) -> Document:
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


def first_line(line: Line) -> Document:
    """`replay verify` of a line that no other comes before."""
    added = [_entry(entry) for entry in line.entries]
    return document("replay verify", True, old=None, new=_line(line), commits=[], new_commits=added)


def plan(found: Plan, ok: bool) -> Document:
    """`replay plan`."""
    steps = [
        _commit(step.commit)
        | {
            "kind": step.kind,
            "action": step.action,
            "remark": visible(step.remark),
            "conflicts": [visible(path) for path in step.conflicts],
        }
        for step in found.steps
    ]
    return document("replay plan", ok, old=_line(found.old), line=found.branch, base=found.base, steps=steps)


def run(found: Run, ok: bool) -> Document:
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
    try:
        return {"version": metadata.version("kine")}
    except metadata.PackageNotFoundError:  # run from a checkout
        return {}


def _sarif_result(finding: Finding, names: list[str]) -> Document:
    subject = visible(finding.subject, SUBJECT_LIMIT)
    # A location is where viewers show a result; a finding on a subject belongs to no file, so to the root.
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
    """A path as shown and, where showing changed it, its bytes."""
    if path is None:
        return {"path": None}
    shown = visible(path)
    if shown == path:
        return {"path": shown}
    return {"path": shown, "path_base64": base64.b64encode(encode(path)).decode()}


def _commit(commit: Commit) -> Document:
    return {"commit": commit.sha, "subject": visible(commit.subject, SUBJECT_LIMIT)}


def _entry(entry: Entry) -> Document:
    return _commit(entry.commit) | {
        "kind": entry.kind,
        "merge": entry.commit.is_merge,
        "patch_id": entry.patch,
    }


def _line(line: Line) -> Document:
    return {
        "branch": line.branch,
        "base": line.base,
        "tip": line.tip,
        "cut_from_base": line.cut_from_base,
        "clean_merges": line.clean_merges,
    }
