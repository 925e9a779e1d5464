"""The `forktools replay` commands: cutting a release line from the one before it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from forktools import remembered_release_lines, replay_run, resolutions, run_journal, text_output
from forktools.cli_options import Answer, As, Remote, Where, answer, branch_of_line, opened
from forktools.commit_matching import Comparison, MatchState, compare, verify
from forktools.commits import range_diff, read_commit
from forktools.git_repository import RepositoryError, commit_id, references
from forktools.release_line import read_line
from forktools.remembered_release_lines import previous_line, recall
from forktools.replay_gate import verify_line, vouched
from forktools.replay_plan import PlannedAction, ReplayPlan, Strays, make_plan, precedents, try_out
from forktools.reporting import Output, show
from forktools.sanitize import has_visible_text, visible
from forktools.tags import first_free_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import git

# Each takes up to three git processes: a line of thousands of changed commits would take minutes.
RANGE_DIFFS = 100

replay_app = typer.Typer(
    help="Carry the fork's commits from one release line to the next.\n\n"
    "The usual order: inventory, plan, apply, then verify in CI.",
    no_args_is_help=True,
)

From = Annotated[
    str, typer.Option("--from", help="The old line, as vX.Y.Z.", show_default="the line before --to")
]
To = Annotated[str, typer.Option("--to", help="The new line, as vX.Y.Z.")]
StraysOption = Annotated[
    Strays, typer.Option(help="What to do with commits that lack the fork scope and are not named below.")
]
Pick = Annotated[list[str] | None, typer.Option(metavar="ID", help="Take over this stray. Repeatable.")]
Drop = Annotated[
    list[str] | None, typer.Option(metavar="ID=REASON", help="Leave this commit out, on record. Repeatable.")
]


@replay_app.command()
def inventory(
    line: Annotated[str, typer.Argument(help="The line, as vX.Y.Z.")],
    repository: Where = Path(),
    remote: Remote = "origin",
    output: As = Answer.AUTO,
) -> None:
    """List what a line carries: product and tooling commits, strays without the fork scope, drop records."""
    repo = opened(repository, remote)
    answer(text_output.inventory(read_line(repo, branch_of_line(line), remote)), output)


@replay_app.command()
def status(
    to: To,
    from_: From = "",
    repository: Where = Path(),
    remote: Remote = "origin",
    range_diffs: Annotated[
        bool,
        typer.Option(
            "--range-diff/--no-range-diff",
            help=f"Show what changed; past {RANGE_DIFFS} commits, the command that shows it.",
        ),
    ] = True,
    output: As = Answer.AUTO,
) -> None:
    """Show the state of each commit of the old line in the new one."""
    repo = opened(repository, remote)
    found = _compare(repo, from_, to, remote)
    answer(
        text_output.comparison("replay status", found, _range_diffs(repo, found) if range_diffs else {}),
        output,
    )


@replay_app.command("verify")
def verify_(
    to: To,
    from_: From = "",
    repository: Where = Path(),
    remote: Remote = "origin",
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    remember: Annotated[
        bool,
        typer.Option(
            "--remember",
            help=f"Keep a line that passes in {remembered_release_lines.LINES}, to notice a loss.",
        ),
    ] = False,
    output: As = Answer.AUTO,
) -> None:
    """Check the replay rule: the new line carries every fork commit of the old one, or says why not.

    Without --from, the line before it is the old one, and every later line is held against this one, too.
    What a line has released stays with it, though its branch was deleted or rewritten.
    """
    repo = opened(repository, remote)
    branch = branch_of_line(to)
    if from_:
        found = _compare(repo, from_, to, remote)
        findings = [*verify(found), *vouched(repo, found.new)]
        answer(text_output.comparison("replay verify", found, {}, findings), output, strict=strict)
        return
    verdict = verify_line(repo, branch, remote)
    report = text_output.verdict(verdict)
    if remember and not report.errors:
        remembered_release_lines.remember(repo, verdict.line.line)
    answer(report, output, strict=strict)


@replay_app.command()
def plan(
    to: To,
    from_: From = "",
    strays: StraysOption = Strays.ASK,
    pick: Pick = None,
    drop: Drop = None,
    trial: Annotated[
        bool, typer.Option("--trial/--no-trial", help="Try the picks out, to foresee conflicts.")
    ] = True,
    repository: Where = Path(),
    remote: Remote = "origin",
    output: As = Answer.AUTO,
) -> None:
    """Show what `apply` would do, conflicts too, and change nothing. Exit 1 while a stray is undecided."""
    repo = opened(repository, remote)
    answer(text_output.plan(_plan(repo, from_, to, strays, pick, drop, remote, trial=trial), trial), output)


@replay_app.command("drop")
def drop_(
    commit: Annotated[str, typer.Argument(help="The commit of the old line.")],
    reason: Annotated[str, typer.Option(help="Why the new line does without it.")],
    repository: Where = Path(),
) -> None:
    """Print the message of an empty commit that records why a commit is left out of a line that exists.

    forktools replay drop ID --reason WHY | git commit --allow-empty -F -
    """
    if not has_visible_text(reason):
        raise RepositoryError("the reason is empty", "Say why the new line does without the commit.")
    repo = opened(repository)
    sha = commit_id(repo, commit, "the commit")
    typer.echo(replay_run.record_message(read_commit(repo, sha), reason), nl=False)


@replay_app.command()
def accept(
    commits: Annotated[list[str], typer.Argument(metavar="COMMIT...", help="Commits of the old line.")],
    to: To,
    reason: Annotated[str, typer.Option(help="Why what stands for them may differ.")],
    from_: From = "",
    repository: Where = Path(),
    remote: Remote = "origin",
) -> None:
    """Print the message of an empty commit that accepts changed commits as they are; shows how they differ.

    forktools replay accept ID --to vX.Y.Z --reason WHY | git commit --allow-empty -F -
    """
    if not has_visible_text(reason):
        raise RepositoryError("the reason is empty", "Say why the commits may differ.")
    repo = opened(repository)
    wanted = {commit_id(repo, commit, "the commit") for commit in commits}
    found = _compare(repo, from_, to, remote)
    fates = [fate for fate in found.fates if fate.entry.commit.sha in wanted and fate.difference]
    if len(fates) < len(wanted):
        others = sorted(wanted - {fate.entry.commit.sha for fate in fates})
        raise RepositoryError(
            f"{found.new.branch} has not changed {others[0][:12]}, a commit to be of {found.old.branch}",
            f"`forktools replay status --to {to}` lists what is changed.",
        )
    for fate in fates:
        for commit in fate.by:
            for line in range_diff(repo, fate.entry.commit.sha, commit.sha).splitlines():
                typer.echo(f"│ {visible(line.expandtabs(4))}", err=True)
    typer.echo(replay_run.accept_message(fates, reason), nl=False)


@replay_app.command()
def apply(
    to: Annotated[str, typer.Option("--to", help="The new line, as vX.Y.Z.")] = "",
    from_: From = "",
    strays: StraysOption = Strays.ASK,
    pick: Pick = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=REASON",
            help="Leave this commit out, on record. Repeatable. With --continue: the REASON to leave out the "
            "commit the run stopped at.",
        ),
    ] = None,
    worktree: Annotated[
        Path | None,
        typer.Option(help="Where to work.", show_default="next to the repository, named after the line"),
    ] = None,
    continue_: Annotated[bool, typer.Option("--continue", help="Go on after a stop.")] = False,
    accept: Annotated[
        str, typer.Option(metavar="REASON", help="With --continue: why the commit may differ, on record.")
    ] = "",
    abort: Annotated[bool, typer.Option("--abort", help="Take everything back.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, on a terminal, before starting.")
    ] = False,
    repository: Where = Path(),
    remote: Remote = "origin",
    output: As = Answer.AUTO,
) -> None:
    """Cut a new line: its upstream tag plus every commit the plan picks, each with `cherry picked from`.

    Works in a work tree of its own, stops at a conflict (exit 1) and says what to do, and makes the branch
    last: a line is whole or not there. Your work tree, index and branches are not touched.
    """
    repo = opened(repository, remote)
    branch = branch_of_line(to) if to else None
    with run_journal.locked(repo) as runs:
        run_journal.require_unlocked(runs)
        if continue_ or abort:
            state = run_journal.read(runs, branch)
            if abort:
                replay_run.remove_worktree(repo, state)
                run_journal.erase(runs, state)
                answer(text_output.undone(state), output)
                return
            state = replay_run.resume(repo, state, _sole_reason(drop), accept if accept.strip() else None)
            if state.phase is replay_run.RunPhase.STOPPED:
                run_journal.write(runs, state)
                diffs = [range_diff(repo, state.current.sha, sha) for sha in state.differs]
                answer(text_output.run(state, diffs, reused=_reused(repo, state)), output)
                return
        else:
            if branch is None:
                raise RepositoryError("which line?", "Name the new line with --to, as vX.Y.Z.")
            run_journal.require_none(runs, branch)
            planned = _plan(repo, from_, to, strays, pick, drop, remote, trial=_asks(yes))
            state = replay_run.prepare(repo, planned, worktree)
            if _asks(yes):
                show(text_output.plan(planned, True), Output.TABLE)
                if not typer.confirm(f"Cut {branch}?", err=True):
                    return
            resolutions.keep(repo, precedents(repo, planned.old, remote), planned.old.branch)
        run_journal.write(runs, state)
        tag = first_free_tag(
            references(repo), state.branch
        )  # now: the work tree that is left may be this one
        with _progress(f"Cutting {state.branch}", len(state.moves)) as moved:

            def save(state: replay_run.ReplayRun) -> None:
                run_journal.write(runs, state)
                moved(state.position)

            try:
                state = replay_run.advance(repo, state, save)
            except KeyboardInterrupt:
                raise RepositoryError(
                    f"interrupted; {state.branch} is not made",
                    "Go on with `forktools replay apply --continue`, or take everything back with --abort.",
                ) from None
        if state.phase is replay_run.RunPhase.DONE:
            run_journal.erase(runs, state)
    answer(text_output.run(state, tag_name=str(tag), reused=_reused(repo, state)), output)


def _reused(repo: git.Repo, state: replay_run.ReplayRun) -> dict[str, str]:
    """The range-diffs of the commits whose conflicts were resolved as before."""
    return {one.sha: range_diff(repo, one.sha, one.by) for one in state.reused if one.by}


def _asks(yes: bool) -> bool:
    return not yes and sys.stdin.isatty() and sys.stdout.isatty()


def _sole_reason(drop: list[str] | None) -> str | None:
    if not drop:
        return None
    if len(drop) > 1 or not drop[0].strip():
        raise RepositoryError("--continue takes one --drop with a reason", "--continue --drop 'why'")
    return drop[0]


def _plan(
    repo: git.Repo,
    from_: str,
    to: str,
    strays: Strays,
    pick: list[str] | None,
    drop: list[str] | None,
    remote: str,
    *,
    trial: bool,
) -> ReplayPlan:
    branch = branch_of_line(to)
    old = recall(repo, _old_line(repo, from_, branch, remote), remote).owed
    dropped = dict(_reason(given) for given in drop or ())
    planned = make_plan(repo, old, branch, remote, strays=strays, picked=pick or (), dropped=dropped)
    if not trial:
        return planned
    known = precedents(repo, old, remote)
    with _progress("Trying the picks out", len(planned.of(PlannedAction.PICK))) as moved:
        return try_out(repo, planned, known, moved)


def _reason(given: str) -> tuple[str, str]:
    sha, _, reason = given.partition("=")
    if not reason.strip():
        raise RepositoryError(f"--drop {visible(given)} gives no reason", "Write --drop ID=REASON.")
    return sha, reason


def _compare(repo: git.Repo, from_: str, to: str, remote: str) -> Comparison:
    branch = branch_of_line(to)
    old = recall(repo, _old_line(repo, from_, branch, remote), remote).owed
    return compare(repo, old, read_line(repo, branch, remote))


def _old_line(repo: git.Repo, from_: str, branch: str, remote: str) -> str:
    if from_:
        return branch_of_line(from_)
    found = previous_line(repo, references(repo), branch, remote)
    if found is None:
        raise RepositoryError(f"no line comes before {branch}", "Name the old line with --from.")
    return found


def _range_diffs(repo: git.Repo, found: Comparison) -> dict[str, str]:
    """The range-diff of each commit that differs in the new line, by id; past the limit, the command that
    shows it."""
    differing = [fate for fate in found.fates if fate.state is MatchState.TRAILER or fate.difference]
    diffs = {}
    with _progress("Comparing", min(len(differing), RANGE_DIFFS)) as moved:
        for number, fate in enumerate(differing, 1):
            sha = fate.entry.commit.sha
            if number > RANGE_DIFFS:
                diffs[sha] = "".join(f"git range-diff {sha}^! {commit.sha}^!\n" for commit in fate.by)
                continue
            diffs[sha] = "".join(range_diff(repo, sha, commit.sha) for commit in fate.by)
            moved(number)
    return diffs


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, if that is a terminal; call the result with the number done."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
