"""Local runner for GitHub workflows, as far as this repository's need it: runs the shell steps for an event.

Checkouts are real clones of a real remote, and expressions are evaluated with the event's payload. A caller
supplies functions for other actions, and puts a stub of each external command (docker, gh, make) first on
PATH.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r"'[^']*'|[a-zA-Z_][\w-]*(?:\.[\w-]+)+")


@dataclass
class Event:
    """An event: its name, its reference, its payload, and the repository's variables."""

    name: str
    ref: str
    sha: str
    payload: dict[str, Any]
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def github(self) -> dict[str, Any]:
        kind = "tag" if self.ref.startswith("refs/tags/") else "branch"
        return {
            "event_name": self.name,
            "event": {"repository": {"default_branch": "main"}, **self.payload},
            "ref": self.ref,
            "ref_name": re.sub(r"refs/(heads|tags)/", "", self.ref),
            "ref_type": kind,
            "sha": self.sha,
            "actor": "ada",
            "workflow": "test",
        }


@dataclass
class Result:
    """The result of each job, and the steps that ran: (job, step) with the exit status."""

    jobs: dict[str, str] = field(default_factory=dict)
    steps: dict[tuple[str, str], int] = field(default_factory=dict)
    workspaces: dict[str, Path] = field(default_factory=dict)

    @property
    def red(self) -> bool:
        return "failure" in self.jobs.values()


def evaluated(text: str, context: Mapping[str, Any]) -> Any:
    """The value of an expression; names missing from the context are empty."""

    def known(match: re.Match[str]) -> str:
        if match[0].startswith("'"):
            return match[0]
        value: Any = context
        for name in match[0].split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return repr(value if value is not None else "")

    plain = text.replace("!cancelled()", "True").replace("\n", " ").replace("!=", "<>")
    plain = plain.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
    plain = _WORD.sub(known, plain).replace("<>", "!=").strip()
    return eval(plain, {"format": lambda form, *words: form.format(*words)})


def filled(value: Any, context: Mapping[str, Any]) -> str:
    """A text with its expressions replaced by their values."""

    def shown(match: re.Match[str]) -> str:
        found = evaluated(match[1], context)
        return {True: "true", False: "false"}.get(found, found) if isinstance(found, bool) else str(found)

    return _EXPRESSION.sub(shown, str(value))


def play(
    workflow: Path,
    event: Event,
    origin: Path,
    place: Path,
    environment: Mapping[str, str],
    actions: Mapping[str, Callable[[Path, dict[str, str]], dict[str, str]]] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Result:
    """Runs every job of a workflow in turn; `actions` are functions by the beginning of an action's name."""
    document = yaml.safe_load(workflow.read_text())
    result = Result()
    for name, job in document["jobs"].items():
        needed = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        context = {
            "github": event.github,
            "vars": event.variables,
            "inputs": dict(inputs or {}),
            "needs": {one: {"result": result.jobs[one]} for one in needed},
            "secrets": {},
            "matrix": {key: values[0] for key, values in job.get("strategy", {}).get("matrix", {}).items()},
        }
        condition = job.get("if")
        wanted = (
            bool(evaluated(_EXPRESSION.sub(r"\1", condition), context))
            if condition
            else all(result.jobs[one] == "success" for one in needed)
        )
        if not wanted:
            result.jobs[name] = "skipped"
        elif "uses" in job:
            called = workflow.parents[2] / job["uses"]
            inner = play(called, event, origin, place / name, environment, actions, {"called": True})
            result.jobs[name] = "failure" if inner.red else "success"
            result.steps |= {(f"{name}/{one[0]}", one[1]): code for one, code in inner.steps.items()}
        else:
            workspace = place / name / "workspace"
            workspace.mkdir(parents=True)
            result.workspaces[name] = workspace
            ok = _run_steps(name, job, context, event, origin, workspace, environment, actions or {}, result)
            result.jobs[name] = "success" if ok else "failure"
    return result


def _run_steps(
    name: str,
    job: dict[str, Any],
    context: dict[str, Any],
    event: Event,
    origin: Path,
    workspace: Path,
    environment: Mapping[str, str],
    actions: Mapping[str, Callable[[Path, dict[str, str]], dict[str, str]]],
    result: Result,
) -> bool:
    temp = workspace.parent / "temp"
    temp.mkdir()
    outputs: dict[str, dict[str, Any]] = {}
    context["steps"] = outputs
    of_job = {key: filled(value, context) for key, value in job.get("env", {}).items()}
    for number, step in enumerate(job["steps"]):
        if "if" in step and not evaluated(_EXPRESSION.sub(r"\1", step["if"]), context):
            continue
        given = {key: filled(value, context) for key, value in step.get("with", {}).items()}
        produced: dict[str, str] = {}
        if step.get("uses", "").startswith("actions/checkout@"):
            _checkout(given, event, origin, workspace)
        elif "uses" in step:
            act = next((found for key, found in actions.items() if step["uses"].startswith(key)), None)
            produced = act(workspace, given) if act else {}
        else:
            written = temp / f"output-{number}"
            written.touch()
            of_step = {key: filled(value, context) for key, value in step.get("env", {}).items()}
            variables = {
                **environment,
                "GITHUB_ACTIONS": "true",
                "GITHUB_EVENT_NAME": event.name,
                "GITHUB_REF_NAME": event.github["ref_name"],
                "GITHUB_REPOSITORY": "loft-sh/kine",
                "GITHUB_SHA": event.sha,
                "GITHUB_OUTPUT": str(written),
                "GITHUB_STEP_SUMMARY": str(temp / "summary.md"),
                "RUNNER_TEMP": str(temp),
                **of_job,
                **of_step,
            }
            done = subprocess.run(
                ["/bin/bash", "-e", "-c", step["run"]],
                cwd=workspace,
                env=variables,
                capture_output=True,
                text=True,
                check=False,
            )
            result.steps[name, step["name"]] = done.returncode
            if done.returncode:
                shown = f"{name}, {step['name']}: {done.returncode}\n{done.stdout}{done.stderr}"
                print(shown)  # noqa: T201 - what a failed test shows
                return False
            produced = _outputs(written.read_text())
        if "id" in step:
            outputs[step["id"]] = {"outputs": produced}
    return True


def _outputs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        if mark and "=" not in name:
            block = []
            for inner in lines:
                if inner == mark:
                    break
                block.append(inner)
            found[name] = "\n".join(block)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found


def _checkout(given: Mapping[str, str], event: Event, origin: Path, workspace: Path) -> None:
    """actions/checkout: all refs with `fetch-depth: 0`, else the one commit and, for a tag, its name."""
    place = workspace / given.get("path", ".")
    place.mkdir(parents=True, exist_ok=True)

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True)

    git("init", "--quiet")
    git("remote", "add", "origin", f"file://{origin}")
    wanted = given.get("ref") or event.ref
    if given.get("fetch-depth") == "0":
        git("fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        if wanted.startswith("refs/pull/"):
            git("fetch", "--quiet", "origin", wanted)
    else:
        tag = f"+{wanted}:{wanted}" if wanted.startswith("refs/tags/") else wanted
        git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", tag)
    if re.fullmatch(r"[0-9a-f]{40}", wanted):
        git("checkout", "--quiet", "--detach", wanted)
    elif given.get("fetch-depth") != "0":
        git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    else:
        branch = wanted.removeprefix("refs/heads/")
        found = wanted if wanted.startswith("refs/tags/") else f"refs/remotes/origin/{branch}"
        git("checkout", "--quiet", "--detach", found)


def path_with(stubs: Path) -> str:
    """PATH with these commands in front."""
    return f"{stubs}:{os.environ['PATH']}"
