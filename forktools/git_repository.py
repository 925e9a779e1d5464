"""Running git: one place that starts it, with an environment that a user's settings cannot change."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import git

from forktools.sanitize import decode, visible_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

MINIMUM_GIT = (2, 39)  # `patch-id --verbatim`, `merge-tree --write-tree`

# Read as recorded: no replacement objects or grafts, no prompts, no locks, no stored path rewriting.
_ENVIRONMENT = {
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": "/dev/null",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
}
_OBJECT_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class RepositoryError(Exception):
    """A question that the repository cannot answer: the problem, and how to fix it."""

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix


class NotARepositoryError(RepositoryError):
    """There is no repository at the path."""


def open_repository(path: Path) -> git.Repo:
    """The repository that holds `path`.

    Raises RepositoryError when there is none, or when git is older than `MINIMUM_GIT`.
    """
    try:
        repo = git.Repo(path, search_parent_directories=True)
        version = repo.git.version_info
    except (git.InvalidGitRepositoryError, git.NoSuchPathError) as error:
        raise NotARepositoryError(f"{path} is not a git repository", "Give one with --repository.") from error
    except (git.GitCommandError, git.GitCommandNotFound, OSError, ValueError) as error:
        raise RepositoryError(f"git cannot be used on {path}: {error}") from error
    if version < MINIMUM_GIT:
        wanted, found = (".".join(map(str, v)) for v in (MINIMUM_GIT, version))
        raise RepositoryError(f"git {found} is too old", f"Install git {wanted} or newer.")
    return repo


def ask(
    repo: git.Repo,
    *arguments: str,
    stdin: bytes | BinaryIO | None = None,
    output: BinaryIO | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> bytes:
    """Standard output of one git command; empty if it was written to the file `output`.

    Raises RepositoryError on any exit status but 0.
    """
    status, answer, complaint = run(
        repo, *arguments, stdin=stdin, output=output, environment=environment, cwd=cwd
    )
    if status:
        shown = " ".join(arguments[2 * arguments.count("-c") :][:3])
        raise RepositoryError(f"git {shown} failed ({status}): {complaint.strip() or 'no message'}")
    return answer


def run(
    repo: git.Repo,
    *arguments: str,
    stdin: bytes | BinaryIO | None = None,
    output: BinaryIO | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int, bytes, str]:
    """Exit status, standard output and standard error of one git command."""
    # Colours, signatures and other encodings would only disturb parsing, hints the messages that are shown.
    command = ["git", "-c", "color.ui=false", "-c", "log.showSignature=false"]
    command += ["-c", "i18n.logOutputEncoding=UTF-8", "-c", "advice.graftFileDeprecated=false"]
    command += ["-C", str(cwd or _home(repo))]
    with tempfile.TemporaryFile() as own:
        given = own if stdin is None or isinstance(stdin, bytes) else stdin
        if isinstance(stdin, bytes):
            own.write(stdin)
            own.seek(0)
        try:
            status, answer, complaint = repo.git.execute(
                [*command, *arguments],
                istream=given,
                output_stream=output,
                max_chunk_size=1 << 20,
                with_extended_output=True,
                with_exceptions=False,
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                env=_ENVIRONMENT | dict(environment or {}),
            )
        except (git.GitCommandNotFound, OSError) as error:
            raise RepositoryError(f"git could not be started: {error}", "Install git.") from error
    said = decode(complaint) if isinstance(complaint, bytes) else str(complaint)
    return int(status), answer if isinstance(answer, bytes) else b"", visible_lines(said)


def _home(repo: git.Repo) -> Path:
    """The directory to run git in; for a bare repository GitPython would use the process's own directory."""
    top = Path(repo.working_tree_dir) if repo.working_tree_dir else None
    return top if top and (top / ".git").exists() else Path(repo.git_dir)


def require_whole_history(repo: git.Repo) -> None:
    """Raises RepositoryError on a shallow or partial clone, where ranges and patches are silently wrong."""
    if ask(repo, "rev-parse", "--is-shallow-repository").strip() == b"true":
        raise RepositoryError(
            "this clone is shallow, so a range of commits cannot be told from its start",
            "Run `git fetch --unshallow --tags`, or set `fetch-depth: 0` on actions/checkout.",
        )
    status, listed, _ = run(repo, "config", "--type=bool", "--get-regexp", r"^remote\..*\.promisor$")
    if status == 0 and b" true" in listed:
        raise RepositoryError(
            "this clone leaves objects out (`--filter`), so patches cannot be read",
            "Run `git fetch --refetch --no-filter`, or set no `filter` on actions/checkout.",
        )


_FETCH = "Fetch it first (`git fetch --tags`, or `fetch-depth: 0` in CI), or check the spelling."


def commit_id(repo: git.Repo, revision: str, what: str, fix: str = _FETCH) -> str:
    """The full id of the commit that `revision` names. Raises RepositoryError when there is none."""
    status, output, _ = run(
        repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    found = output.decode().split()
    if status or not found or not _OBJECT_NAME.fullmatch(found[-1]):
        raise RepositoryError(
            f"{what} {visible_lines(revision)} is not a commit in this repository",
            fix,
        )
    return found[-1]


def references(repo: git.Repo) -> dict[str, str]:
    """Every reference by full name, with the id it holds (for an annotated tag, the tag object's)."""
    listing = ask(repo, "for-each-ref", "--format=%(refname) %(objectname)")
    return dict(decode(line).rsplit(" ", 1) for line in listing.splitlines())


def is_ancestor(repo: git.Repo, older: str, newer: str) -> bool:
    """Whether commit `older` is in the history of commit `newer` (a commit is in its own)."""
    status, _, complaint = run(repo, "merge-base", "--is-ancestor", older, newer)
    if status > 1:
        raise RepositoryError(f"git merge-base failed: {complaint.strip()}")
    return status == 0


def branch_tip(repo: git.Repo, refs: Mapping[str, str], branch: str, remote: str) -> str | None:
    """The commit at the newer of a branch's local and remote-tracking tips; None if neither exists.

    Raises RepositoryError when the two have diverged, because either could be meant.
    """
    places = (f"refs/heads/{branch}", f"refs/remotes/{remote}/{branch}")
    tips = [refs[place] for place in places if place in refs]
    for tip in tips:
        if all(is_ancestor(repo, other, tip) for other in tips if other != tip):
            return tip
    if not tips:
        return None
    raise RepositoryError(
        f"{branch} and {remote}/{branch} have diverged",
        f"Bring them together first (`git fetch {remote}`, then merge or reset {branch}).",
    )
